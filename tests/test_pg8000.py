"""pg8000: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
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
from support.databases import Database
from support.servers import PostgresServer
from support.subjects.pg8000 import SUBJECT


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    return SUBJECT.database(postgres)


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
    raw = SimpleNamespace(_transaction_status=None)
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
            _usock=SimpleNamespace(getpeername=lambda: place), _backend_key_data=b"01234567"
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
