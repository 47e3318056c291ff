"""What the drivers' files know, asked of them directly, with stand-ins where a case is rare."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from asyncdbpool import ConnectionPool, Driver
from asyncdbpool.drivers.psycopg2 import Psycopg2Driver
from asyncdbpool.drivers.sqlite3 import SQLite3Driver


class Recorder:
    """A stand-in for a sqlite3 connection of Python 3.12, which notes what is done to it."""

    def __init__(self, *, autocommit: bool | int, in_transaction: bool) -> None:
        self.autocommit = autocommit
        self.in_transaction = in_transaction
        self.isolation_level = ""
        self.done: list[str] = []

    def execute(self, sql: str) -> None:
        self.done.append(sql)

    def commit(self) -> None:
        self.done.append("commit()")

    def rollback(self) -> None:
        self.done.append("rollback()")


def test_sqlite_in_autocommit_ends_what_a_statement_has_begun() -> None:
    driver = SQLite3Driver(sqlite3)
    raw = Recorder(autocommit=True, in_transaction=True)
    driver.commit(raw)
    driver.rollback(raw)
    assert raw.done == ["commit()", "COMMIT", "rollback()", "ROLLBACK"]
    assert driver.in_transaction(raw) is True


def test_sqlite_without_autocommit_is_always_in_a_transaction_so_nothing_is_proven() -> None:
    driver = SQLite3Driver(sqlite3)
    raw = Recorder(autocommit=False, in_transaction=True)
    assert driver.in_transaction(raw) is None
    driver.begin(raw)
    driver.rollback(raw)
    assert raw.done == ["rollback()"]


def test_sqlite_can_be_given_its_thread_check_by_position() -> None:
    driver = SQLite3Driver(sqlite3)
    asked: list[Any] = []
    driver.module = SimpleNamespace(connect=lambda *args, **kwargs: asked.append((args, kwargs)))
    driver.connect((":memory:", 5.0, 0, None, True), {})
    driver.connect((":memory:",), {"timeout": 1})
    assert asked == [
        ((":memory:", 5.0, 0, None, True), {}),
        ((":memory:",), {"check_same_thread": False, "timeout": 1}),
    ]


def test_libpq_gets_a_timeout_of_its_own_unless_the_user_has_set_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    driver = Psycopg2Driver(psycopg2)
    assert driver.with_timeout((), {"host": "a"}, 0.5) == {"host": "a", "connect_timeout": 2}
    assert driver.with_timeout((), {}, 7.2) == {"connect_timeout": 8}
    assert driver.with_timeout((), {"connect_timeout": 1}, 7.2) == {"connect_timeout": 1}
    assert driver.with_timeout(("postgresql://a/b?connect_timeout=1",), {}, 7.2) == {}
    assert driver.with_timeout((), {"dsn": "connect_timeout=1"}, 7) == {"dsn": "connect_timeout=1"}
    assert driver.with_timeout((), {}, float("inf")) == {}
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "1")
    assert driver.with_timeout((), {}, 7.2) == {}


@pytest.mark.parametrize(
    ("text", "transient"),
    [
        ("connection to server failed: " + os.strerror(errno.ECONNREFUSED), True),
        ("FATAL:  the database system is starting up\n", True),
        ("FATAL:  sorry, too many clients already\n", True),
        ('FATAL:  password authentication failed for user "a"\n', False),
        ("FATAL:  das Datenbanksystem startet\n", False),
    ],
)
def test_psycopg2_takes_for_transient_only_what_is_certain(text: str, *, transient: bool) -> None:
    assert Psycopg2Driver(psycopg2).is_transient(psycopg2.OperationalError(text)) is transient


@pytest.mark.parametrize(
    ("code", "transient"), [("57P03", True), ("53300", True), ("28P01", False)]
)
def test_a_code_counts_more_than_words(code: str, *, transient: bool) -> None:
    error = SimpleNamespace(pgcode=code)
    assert Psycopg2Driver(psycopg2).is_transient(error) is transient  # type: ignore[arg-type] # a stand-in


def test_the_generic_driver_needs_no_rollback_and_no_socket() -> None:
    def fail() -> int:
        raise OSError

    driver = Driver(SimpleNamespace(connect=lambda: None))
    driver.rollback(SimpleNamespace())
    assert driver.fileno(SimpleNamespace(fileno=fail)) is None
    assert driver.fileno(SimpleNamespace(fileno=lambda: -1)) is None
    assert driver.fileno(SimpleNamespace()) is None
    assert driver.learn(SimpleNamespace()) is None
    with pytest.raises(NotImplementedError):
        driver.reset(SimpleNamespace(), (), {})


@pytest.mark.parametrize(
    ("name", "withhold", "told"), [("n", False, False), ("n", True, True), (None, None, True)]
)
def test_only_a_named_cursor_may_have_ended_with_its_transaction(
    name: str | None, withhold: bool | None, told: bool
) -> None:
    def close() -> None:
        raise psycopg2.ProgrammingError("named cursor isn't valid anymore")

    cursor = SimpleNamespace(name=name, withhold=withhold, close=close)
    with pytest.raises(psycopg2.ProgrammingError) if told else nullcontext():
        Psycopg2Driver(psycopg2).close_cursor(cursor)


async def test_a_descriptor_that_is_no_socket_is_left_alone() -> None:
    readable, writable = os.pipe()

    class Piped(sqlite3.Connection):
        def fileno(self) -> int:
            return readable

    try:
        async with ConnectionPool(
            sqlite3, ":memory:", factory=Piped, driver=Driver(sqlite3)
        ) as pool:
            assert await pool.fetch_val("SELECT 7") == 7
        os.fstat(readable)  # still open: only the duplicate has been closed
    finally:
        os.close(readable)
        os.close(writable)


async def test_a_value_that_can_be_called_is_no_method() -> None:
    class Bare:
        """Delegates to a connection, as some drivers' wrappers do."""

        def __init__(self, raw: sqlite3.Connection) -> None:
            self.raw = raw
            self.factory = lambda row: row

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raw, name)

    module = SimpleNamespace(
        connect=lambda: Bare(sqlite3.connect(":memory:", check_same_thread=False))
    )
    async with ConnectionPool(module) as pool, pool.connection() as conn:
        assert conn.factory(7) == 7, "a plain function is a value"
        assert await conn.create_function("one", 0, lambda: 1) is None, "a bound one is a method"
        assert await conn.fetch_val("SELECT one()") == 1


async def test_a_method_that_gives_a_cursor_again_gives_its_proxy_again() -> None:
    class Remembering(sqlite3.Connection):
        last: sqlite3.Cursor

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            self.last = super().cursor(*args, **kwargs)
            return self.last

        def the_last_cursor(self) -> sqlite3.Cursor:
            return self.last

    pool = ConnectionPool(sqlite3, ":memory:", factory=Remembering)
    async with pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT 1 UNION ALL SELECT 2")
        again = await conn.the_last_cursor()
        assert type(again) is type(cursor)
        assert await cursor.fetchone() == (1,)
        assert await again.fetchone() == (2,), "it reads the same rows"


async def test_a_hook_that_turns_out_to_be_a_coroutine_is_refused() -> None:
    async def later(raw: Any) -> None:
        raise AssertionError(raw)

    hidden = lambda raw: later(raw)  # noqa: E731, PLW0108 - it does not look like a coroutine function
    pool = ConnectionPool(sqlite3, ":memory:", setup=hidden, name="orders")
    async with pool:
        with pytest.raises(TypeError, match="pool 'orders': setup returned a coroutine"):
            await pool.get()


async def test_a_statement_without_rows_is_answered_as_the_driver_answers(
    tmp_path: Any,
) -> None:
    async with ConnectionPool(sqlite3, tmp_path / "a.db") as pool:
        await pool.execute("CREATE TABLE t (a)")
        assert await pool.fetch_all("INSERT INTO t VALUES (1)") == []
        assert await pool.fetch_val("SELECT count(*) FROM t") == 1


async def test_a_statement_can_be_thrown_at_and_closed_like_any_coroutine() -> None:
    async with ConnectionPool(sqlite3, ":memory:") as pool, pool.connection() as conn:
        with pytest.raises(LookupError):
            conn.execute("SELECT 1").throw(LookupError())
        conn.execute("SELECT 1").close()
        assert await conn.fetch_val("SELECT 2") == 2
