"""Cancels that get no answer: the network has swallowed them, or they come when nobody knows."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar

import aiomysql
import asyncpg
import MySQLdb
import pytest

from asyncdbpool import PoolError
from asyncdbpool.drivers import Unanswered
from asyncdbpool.drivers.aiomysql import AiomysqlDriver
from asyncdbpool.drivers.asyncpg import AsyncpgDriver
from asyncdbpool.drivers.mysqldb import MySQLdbDriver
from asyncdbpool.testing import NEVER, Fake, NativeFake, settle, virtual_time
from asyncdbpool.testing.invariants import threads_of
from support.databases import Database


async def given_up(work: Awaitable[Any]) -> None:
    """Wait for something for a second, and no longer."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await work


def swallowed(kind: type[Fake]) -> Fake:
    """A fake whose next statement hangs, and so does the cancel that is sent for it."""
    fake = kind(sockets=True, cancels=True)
    fake.execute.once(NEVER)
    fake.cancel.once(NEVER)
    return fake


every_way = pytest.mark.parametrize("kind", [Fake, NativeFake])


@every_way
@virtual_time
async def test_a_cancel_that_is_swallowed_does_not_keep_others_from_being_sent(
    kind: type[Fake],
) -> None:
    fake = swallowed(kind)
    async with fake.pool(max_size=2, cancel_grace=5) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(6)
        assert (pool.free, pool.stats().discarded) == (2, 1), "its connection was cut off"

        fake.execute.once(NEVER)
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(1)
        assert (pool.free, pool.stats().discarded) == (2, 1), "this one was cancelled"
        fake.cancel.open()


@virtual_time
async def test_cancels_behind_one_that_is_swallowed_are_sent_after_the_grace() -> None:
    fake = swallowed(Fake)
    fake.execute.once(NEVER)
    async with fake.pool(max_size=2, cancel_grace=2) as pool:
        first = asyncio.create_task(given_up(pool.fetch_all("SELECT 1")))
        conn = await pool.get()
        second = asyncio.create_task(conn.fetch_all("SELECT 2"))
        await asyncio.wait([first])
        by_hand = asyncio.create_task(conn.cancel())
        with pytest.raises(PoolError, match=r"^a cancel had no answer within cancel_grace$"):
            await by_hand
        await conn.cancel()
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await second
        await pool.put(conn)


@virtual_time
async def test_no_more_than_a_few_threads_are_left_in_cancels_that_are_swallowed() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.execute.always(NEVER)
    fake.cancel.always(NEVER)
    async with fake.pool(max_size=1, cancel_grace=1) as pool:
        for _ in range(6):
            await given_up(pool.fetch_all("SELECT n"))
            await asyncio.sleep(3)
            assert pool.free == 1, "the permit comes back all the same"
        stuck = [thread for thread in threads_of(pool) if thread.name.endswith("-aside")]
        assert len(stuck) == 3

        async with pool.connection() as conn:
            statement = asyncio.create_task(conn.fetch_all("SELECT n"))
            await settle()
            with pytest.raises(PoolError, match="cancels have had no answer; no more is sent"):
                await conn.cancel()
            statement.cancel()
            await asyncio.wait([statement])
        fake.cancel.open()


@every_way
@virtual_time
async def test_a_cancel_that_may_come_later_costs_its_connection_and_hits_nothing(
    kind: type[Fake],
) -> None:
    fake = kind(sockets=True, cancels=True)
    fake.execute.once(2.0)
    fake.cancel.always(Unanswered("sent, and then silence"))
    async with fake.pool(max_size=1, cancel_grace=60) as pool, pool.connection() as conn:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await conn.fetch_all("SELECT n")
        await asyncio.sleep(2)
        with pytest.raises((PoolError, fake.Lost)):
            await conn.fetch_all("SELECT 2")
        await conn.close()
        await settle()
        assert pool.stats().discarded == 1
        fake.cancel.open()


@every_way
@pytest.mark.parametrize("sockets", [True, False])
@virtual_time
async def test_a_cancel_by_hand_that_is_swallowed_keeps_its_statement_no_longer_than_the_grace(
    kind: type[Fake], sockets: bool
) -> None:
    fake = kind(sockets=sockets, cancels=True)
    fake.execute.once(1.0)
    fake.cancel.once(NEVER)
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        async with pool.connection() as conn:
            statement = asyncio.create_task(conn.fetch_all("SELECT n"))
            await settle()
            with pytest.raises(PoolError, match="had no answer within cancel_grace"):
                await conn.cancel()
            with suppress(PoolError, fake.Error):
                await statement
        await settle()
        assert (pool.free, pool.stats().discarded) == (1, 1), "nobody knows what it would hit"
        fake.cancel.open()


@virtual_time
async def test_closing_the_pool_ends_the_wait_for_a_cancel_by_hand() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.execute.once(NEVER)
    fake.lost_cancels = 1
    fake.cancel.once(1.0, NEVER)
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        conn = await pool.get()
        await given_up(conn.fetch_all("SELECT n"))
        await asyncio.sleep(2)
        by_hand = asyncio.create_task(conn.cancel())
        await asyncio.sleep(3.1)
        assert pool.stats().discarded == 0, "the statement has been cut off, its cancel has not"
        assert not by_hand.done()
        await pool.close(timeout=0)
        with pytest.raises(PoolError, match="was closed before a cancel was answered"):
            await by_hand
        fake.cancel.open()
        await settle()  # its thread can end now


@virtual_time
async def test_without_a_socket_nothing_more_is_run_where_a_cancel_may_come_later() -> None:
    fake = Fake(cancels=True)
    fake.execute.once(2.0)
    fake.cancel.always(Unanswered("sent, and then silence"))
    async with fake.pool(max_size=1, cancel_grace=60) as pool, pool.connection() as conn:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await conn.fetch_all("SELECT 1")
        with pytest.raises(PoolError, match="was cut off before this ran"):
            await conn.fetch_all("SELECT 2")
        assert fake.statements == ["SELECT 1"]
        fake.cancel.open()


class Deaf:
    """Stands for what a driver needs to send a cancel that meets an error."""

    error: ClassVar[BaseException]

    async def connect(self, args: object, kwargs: object) -> Any:
        return SimpleNamespace(close=lambda: None)

    async def command(self, raw: object, sql: str) -> None:
        raise self.error


class DeafAiomysql(Deaf, AiomysqlDriver):
    """Its `KILL` meets an error."""


async def nothing() -> Mapping[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("number", "expected"), [(2013, Unanswered), (1094, aiomysql.OperationalError)]
)
async def test_a_kill_whose_own_connection_is_lost_is_unanswered(
    number: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deaf, "error", aiomysql.OperationalError(number, "so"), raising=False)
    monkeypatch.setattr(DeafAiomysql, "is_closed", lambda *_: False)
    raw = SimpleNamespace(thread_id=lambda: 7)
    kill = DeafAiomysql(aiomysql).canceller(raw, (), {})
    assert kill is not None
    with pytest.raises(expected):
        await kill(nothing)


def asyncpgs_cancel(place: tuple[str, int]) -> Callable[[], Awaitable[None]]:
    """Send a cancel request to a place, as for a connection that goes there."""
    told = SimpleNamespace(backend_pid=7, backend_secret=-1)
    params = SimpleNamespace(ssl=None)
    raw = SimpleNamespace(_cancel=None, _addr=place, _params=params, _protocol=told)
    cancel = AsyncpgDriver(asyncpg).canceller(raw, (), {})
    assert cancel is not None
    return lambda: cancel(nothing)


async def test_a_cancel_request_that_is_reset_is_unanswered() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(16)
        at_once = struct.pack("ii", 1, 0)  # close with a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        cancel = asyncpgs_cancel(server.sockets[0].getsockname())
        with pytest.raises(Unanswered, match="the cancel request had no answer"):
            await cancel()


async def test_a_cancel_request_that_is_refused_is_told_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = taken.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await asyncpgs_cancel(place)()


class DeafMySQLdb(MySQLdbDriver):
    """Its side connection is lost behind the `KILL`."""

    def connect(self, args: object, kwargs: object) -> Any:
        return SimpleNamespace(close=lambda: None)

    def command(self, raw: object, sql: str) -> None:
        raise MySQLdb.OperationalError(2013, "Lost connection to server during query")


def test_a_kill_whose_own_connection_is_lost_is_unanswered_on_a_thread_too() -> None:
    raw = SimpleNamespace(thread_id=lambda: 7)
    kill = DeafMySQLdb(MySQLdb).canceller(raw, (), {})
    assert kill is not None
    with pytest.raises(Unanswered, match="KILL QUERY 7 had no answer"):
        kill(dict)


def test_a_kill_that_the_server_refuses_is_told_as_it_is(mysql: Database) -> None:
    driver = MySQLdbDriver(mysql.module)
    raw = mysql.connect()
    kill = driver.canceller(raw, (), mysql.arguments)
    assert kill is not None
    raw.close()
    with pytest.raises(mysql.module.OperationalError, match="Unknown thread id"):
        for _ in range(200):  # until the server has noticed
            kill(dict)
