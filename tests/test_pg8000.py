"""pg8000: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pg8000
import pg8000.dbapi
import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers import Unanswered, find_driver
from asyncdbpool.drivers import pg8000 as module_under_test
from asyncdbpool.drivers.pg8000 import Pg8000Driver
from support.activity import Activity
from support.cancelling import cancelled_behind_a_reset
from support.databases import Database
from support.servers import PostgresServer
from support.subjects.pg8000 import SUBJECT

DRIVER = Pg8000Driver(pg8000.dbapi)


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    return SUBJECT.database(postgres)


@pytest.fixture
def activity(database: Database, postgres: PostgresServer) -> Iterator[Activity]:
    with SUBJECT.activity(database, postgres) as activity:
        yield activity


@pytest.mark.parametrize("asked", [{}, {"timeout": 9}])
async def test_the_pool_s_timeout_is_for_the_connect_and_the_user_s_is_kept(
    database: Database, asked: dict[str, Any]
) -> None:
    arguments = {**database.arguments, **asked}
    async with ConnectionPool(pg8000.dbapi, connect_kwargs=arguments) as pool:
        left = await pool.run(lambda raw: raw._usock.gettimeout())
    assert left == asked.get("timeout")
    driver = find_driver(pg8000.dbapi)
    assert driver.with_timeout((), {}, float("inf")) == {}


async def test_a_timeout_may_be_given_by_position(database: Database) -> None:
    names = ("user", "host", "database", "port", "password")
    args = (*(database.arguments[name] for name in names), None, None, False, 9)
    async with ConnectionPool(pg8000.dbapi, *args) as pool:
        assert await pool.run(lambda raw: raw._usock.gettimeout()) == 9


async def test_a_two_phase_transaction_that_is_left_behind_costs_the_connection(
    database: Database,
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(lambda raw: raw.tpc_begin(raw.xid(1, "left", "behind")))
        async with pool.connection() as conn:
            await conn.fetch_val("SELECT 1")
            with pytest.raises(pg8000.dbapi.ProgrammingError, match="without a TPC"):
                await conn.run(lambda raw: raw.tpc_commit())
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)


async def test_a_transaction_that_has_failed_is_not_committed(database: Database) -> None:
    async with database.opened() as pool:
        with pytest.raises(pg8000.dbapi.DatabaseError, match="25P02"):
            async with pool.transaction() as conn:
                with pytest.raises(pg8000.dbapi.DatabaseError, match="nothing"):
                    await conn.execute("SELECT nothing")
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1


async def test_a_begin_by_hand_is_joined_in_autocommit(database: Database) -> None:
    async with database.opened(**SUBJECT.autocommits) as pool, pool.connection() as conn:
        await conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        async with conn.transaction():
            assert await conn.fetch_val("SHOW transaction_isolation") == "serializable"


async def test_the_module_s_old_interface_works_too(database: Database) -> None:
    async with ConnectionPool(pg8000, **database.arguments) as pool:
        assert isinstance(pool._driver, Pg8000Driver)
        async with pool.transaction() as conn:
            assert list(await conn.fetch_one("SELECT 7, 8")) == [7, 8]


def test_nothing_is_said_of_a_transaction_ahead_of_the_first_answer() -> None:
    raw = SimpleNamespace(_transaction_status=None, _usock=object())
    assert Pg8000Driver(pg8000.dbapi).in_transaction(raw) is None


def test_a_cancel_without_an_answer_may_take_effect_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is one that listens on a Unix socket, takes the request and does no more."""
    monkeypatch.setattr(module_under_test, "_PATIENCE", 0.05)
    place = str(tmp_path / "socket")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(place)
        listening.listen()
        raw = SimpleNamespace(
            _usock=SimpleNamespace(family=socket.AF_UNIX, getpeername=lambda: place),
            _backend_key_data=b"01234567",
        )
        cancel = Pg8000Driver(pg8000.dbapi).canceller(raw, (), {})
        assert cancel is not None
        asked: list[bytes] = []

        def serve(side: socket.socket) -> None:
            with side:
                asked.append(side.recv(100))

        with pytest.raises(Unanswered, match="had no answer"):
            cancel(dict)
        hung, _ = listening.accept()
        with hung:
            assert hung.recv(100) == b"\0\0\0\x10\x04\xd2\x16\x2e" + b"01234567"
        thread = threading.Thread(target=lambda: serve(listening.accept()[0]))
        thread.start()
        monkeypatch.setattr(module_under_test, "_PATIENCE", 20.0)
        cancel(dict)
        thread.join()
        assert len(asked) == 1


# ------------------------------------------------------------------------------------------------
# Sessions


async def test_a_procedure_called_in_a_block_belongs_to_its_transaction(
    database: Database,
) -> None:
    database.change(
        "DROP TABLE IF EXISTS goods",
        "CREATE TABLE goods (id integer)",
        "CREATE OR REPLACE PROCEDURE put(number bigint) LANGUAGE sql"
        " AS 'INSERT INTO goods VALUES ($1)'",
    )
    async with database.opened() as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction() as conn, conn.cursor() as cursor:
                await cursor.callproc("put", (1,))
                raise ZeroDivisionError
        assert await pool.fetch_all("SELECT id FROM goods") == []


async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database,
) -> None:
    def alter(raw: Any) -> None:
        raw.autocommit = True
        raw.register_in_adapter(23, float)
        raw.register_out_adapter(int, lambda value: str(value + 1))

    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(alter)
            assert repr(await conn.fetch_val("SELECT 1")) == "1.0"
            assert await conn.fetch_val("SELECT %s", (1,)) == "2"
        async with pool.connection() as conn:
            assert repr(await conn.fetch_val("SELECT 1")) == "1"
            assert await conn.fetch_val("SELECT %s", (1,)) == "1"
            assert conn.autocommit is False
        assert pool.stats().created == 1


# ------------------------------------------------------------------------------------------------
# Answers that nobody has read to the end


class Unsayable:
    def __str__(self) -> str:
        raise ZeroDivisionError


def misread(raw: Any) -> None:
    """Have a row fail that has come in already."""
    raw.register_in_adapter(23, Unsayable.__str__)
    raw.cursor().execute("SELECT n::integer FROM generate_series(1, 9) AS n")


def misspeak(raw: Any) -> None:
    """Have a parameter fail when the server has begun to answer."""
    raw.cursor().execute("SELECT %s", (Unsayable(),))


def misroute(raw: Any) -> None:
    """Leave the server waiting for rows."""
    cursor = raw.cursor()
    cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS papers (id integer)")
    try:
        cursor.execute("COPY papers FROM STDIN")
    except pg8000.dbapi.InterfaceError:
        raise ZeroDivisionError from None


@pytest.mark.parametrize("wrong", [misread, misspeak, misroute])
async def test_an_answer_that_nobody_has_read_to_its_end_never_stands_for_another(
    database: Database, wrong: Any
) -> None:
    async with database.opened(max_size=2) as pool:
        async with pool.connection(), pool.connection() as conn:
            with pytest.raises(ZeroDivisionError):
                await conn.run(wrong)
            with pytest.raises(pg8000.dbapi.InterfaceError, match="connection is closed"):
                await conn.fetch_val("SELECT 1")
        assert (pool.size, pool.stats().discarded) == (1, 1), "no other one has been lost"
        assert await pool.fetch_val("SELECT 7") == 7


async def test_a_connection_that_is_closed_is_not_lent_again_in_autocommit_either(
    database: Database,
) -> None:
    async with database.opened(max_size=1, **SUBJECT.autocommits) as pool:
        async with pool.connection() as conn:
            with pytest.raises(ZeroDivisionError):
                await conn.run(misspeak)
        assert (pool.size, pool.stats().discarded) == (0, 1)


async def test_a_connection_whose_answer_came_too_late_is_not_lent_again(
    database: Database,
) -> None:
    async with ConnectionPool(
        pg8000.dbapi,
        connect_kwargs={**database.arguments, "timeout": 0.3},
        max_size=1,
        **SUBJECT.autocommits,
    ) as pool:
        with pytest.raises(TimeoutError):
            await pool.fetch_val("SELECT pg_sleep(0.6)")
        assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)


async def test_a_block_takes_over_what_was_begun_before(database: Database) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        await conn.execute("SET LOCAL work_mem = 1234")
        async with conn.transaction():
            assert await conn.fetch_val("SHOW work_mem") == "1234kB"


async def test_a_statement_that_the_server_refuses_costs_nothing(database: Database) -> None:
    async with database.opened(max_size=2) as pool:
        async with pool.connection() as idle, pool.connection() as conn:
            assert await idle.fetch_val("SELECT 1") == 1
            for sql, params in (
                ("SELECT 1 FROM nowhere", ()),
                ("SELECT %s, %s", (1,)),
                ("SELECT 1 / %s", (0,)),
                ("SELECT %d", (1,)),
            ):
                with pytest.raises((pg8000.dbapi.DatabaseError, pg8000.dbapi.InterfaceError)):
                    await conn.execute(sql, params)
                await conn.rollback()
                assert await conn.fetch_val("SELECT %s", (7,)) == "7"
            stream = BytesIO()
            await conn.run(
                lambda raw: raw.cursor().execute("COPY (SELECT 7) TO STDOUT", (), stream)
            )
            assert stream.getvalue() == b"7\n"
        assert (pool.size, pool.stats().discarded) == (2, 0)


# ------------------------------------------------------------------------------------------------
# Cancelling


async def test_a_cancel_between_the_messages_of_a_statement_with_parameters_does_no_harm(
    activity: Activity,
) -> None:
    def asking(token: str, seconds: float) -> tuple[str, tuple[int]]:
        return f"{activity.saying(token, seconds)} WHERE %s = '7'", (7,)

    async with activity.pool(max_size=1) as pool, pool.connection() as conn:
        for number in range(80):
            doomed = asyncio.create_task(conn.fetch_one(*asking("doomed", 0.005)))
            await asyncio.sleep(number % 16 / 4000)
            doomed.cancel()
            await asyncio.wait([doomed])
            await conn.rollback()
            token = f"token {number}"
            assert (await conn.fetch_one(*asking(token, 0)))[0] == token
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_what_is_left_in_the_buffer_by_a_cancel_does_no_harm(database: Database) -> None:
    def leave(raw: Any) -> None:
        raw.execute_simple("BEGIN")
        raw.send_BIND(b"\x00", ())  # of a statement that there is not; it is not sent yet
        raw._is_answered = True

    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        await conn.run(leave)
        await conn.run(DRIVER.absorb_cancel)
        await conn.rollback()
        assert await conn.fetch_val("SELECT 7") == 7


@pytest.mark.realtime
async def test_a_cancel_that_is_reset_hits_no_later_statement(
    database: Database, postgres: PostgresServer
) -> None:
    await cancelled_behind_a_reset(database, postgres)


@pytest.mark.usefixtures("secured")
async def test_a_cancel_speaks_tls_where_its_connection_does(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = []
    wrap = ssl.SSLContext.wrap_socket

    def counted(context: ssl.SSLContext, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        wrapped.append(context)
        return wrap(context, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", counted)
    async with activity.pool(max_size=1, ssl_context=True) as pool:
        task = asyncio.create_task(pool.fetch_val(activity.endless))
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        assert await pool.fetch_val("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert (pool.stats().cancelled, pool.stats().created) == (1, 1)
    assert len(wrapped) >= 2, "for the connection, and for each cancel"
    assert len(set(wrapped)) == 1


@contextmanager
def peer(answer: bytes, *, reset: bool = False) -> Iterator[socket.socket]:
    """A connection to a server that answers so, and then closes or resets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            used, _ = listening.accept()
            asking, _ = listening.accept()
            with used, asking:
                asking.recv(8)
                asking.sendall(answer)
                if reset:
                    asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(listening.getsockname()) as used:
            yield used
        thread.join()


def test_a_cancel_that_was_sent_and_has_no_answer_may_come_at_any_time() -> None:
    with peer(b"", reset=True) as used:
        raw = SimpleNamespace(_usock=used, _backend_key_data=b"12345678")
        cancel = DRIVER.canceller(raw, (), {"timeout": 5})
        assert cancel is not None
        with pytest.raises(Unanswered):
            cancel(dict)


def test_a_cancel_is_not_sent_in_the_clear_where_its_connection_is_not() -> None:
    with peer(b"N") as plain:
        used = ssl.create_default_context().wrap_socket(
            plain, do_handshake_on_connect=False, server_hostname="localhost"
        )
        raw = SimpleNamespace(_usock=used, _backend_key_data=b"12345678")
        cancel = DRIVER.canceller(raw, (), {})
        assert cancel is not None
        with closing(used), pytest.raises(ConnectionError, match="refuses TLS"):
            cancel(dict)


def test_a_server_that_gives_no_key_cannot_be_asked_to_cancel() -> None:
    raw = SimpleNamespace(_usock=None, _backend_key_data=None)
    assert DRIVER.canceller(raw, (), {}) is None


# ------------------------------------------------------------------------------------------------
# Errors


def test_a_read_only_server_is_as_good_as_lost_and_a_wrong_number_of_parameters_is_not() -> None:
    def error(code: str) -> Exception:
        failure: Exception = pg8000.dbapi.DatabaseError({"C": code, "M": "..."})
        return failure

    for code in ("25006", "57P01", "08006"):
        assert DRIVER.is_disconnect(error(code), None)
    assert DRIVER.is_disconnect(ConnectionResetError(), None)
    for other in (error("08P01"), error("23505"), ValueError(), KeyError(("a", "b"))):
        assert not DRIVER.is_disconnect(other, None)


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    for change, transient in (
        ({"port": 1}, True),
        ({"host": "nowhere.invalid"}, False),
        ({"unix_sock": "/nowhere"}, False),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(pg8000.dbapi.Error) as caught:
            pg8000.dbapi.connect(**{**database.arguments, **change})
        assert DRIVER.is_transient(caught.value) is transient, change
    assert DRIVER.is_transient(pg8000.dbapi.DatabaseError({"C": "57P03"}))
    assert DRIVER.is_transient(pg8000.dbapi.InterfaceError("network error"))
    assert DRIVER.is_transient(TimeoutError())
