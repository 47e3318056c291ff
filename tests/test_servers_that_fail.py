"""Backends that die and servers that turn read-only: no borrower gets what they left."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers import BaseDriver, find_driver
from support.access import (
    backend,
    backends,
    connections,
    eventually,
    kill,
    tell,
    threads,
)
from support.databases import Database, mariadb_natively, mariadb_on
from support.fixtures import SERVED, described, with_blocking_servers
from support.servers import MariaDBServer, PostgresServer, Server


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


# ------------------------------------------------------------------------------------------------
# Proof of life


def counting(module: Any) -> tuple[BaseDriver, list[str]]:
    """The module's driver, and the names of the threads that have pinged with it."""
    pings: list[str] = []
    family: Any = type(find_driver(module))

    class Counting(family):  # type: ignore[misc]
        def ping(self, raw: Any) -> Any:
            pings.append(threading.current_thread().name)
            return super().ping(raw)

    return Counting(module), pings


def at_work(pool: ConnectionPool) -> list[str]:
    """The threads that the pool's connections work on: their own, or the event loop's."""
    return threads(pool.name) or [threading.current_thread().name]


async def test_a_connection_just_used_is_lent_without_a_ping(
    server: Server, database: Database
) -> None:
    driver, pings = counting(database.module)
    async with database.opened(driver=driver) as pool:
        found = {await backend(server, pool) for _ in range(5)}
        assert len(found) == 1
        assert pings == []


@pytest.mark.realtime
async def test_a_connection_idle_for_longer_than_check_after_is_pinged(
    server: Server, database: Database
) -> None:
    driver, pings = counting(database.module)
    async with database.opened(driver=driver, check_after=1.0) as pool:
        first = await backend(server, pool)
        await asyncio.sleep(1.1)
        assert await backend(server, pool) == first
        assert pings == at_work(pool)
        assert await backend(server, pool) == first
        assert len(pings) == 1


async def test_always_means_a_ping_for_every_lease_but_the_first(database: Database) -> None:
    driver, pings = counting(database.module)
    async with database.opened(driver=driver, check="always") as pool:
        for _ in range(4):
            await pool.fetch_val("SELECT 1")
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
        assert len(pings) == 4
        assert pool.stats().created == 1


async def test_none_means_no_ping_ever(server: Server, database: Database) -> None:
    driver, pings = counting(database.module)
    async with database.opened(driver=driver, check=None, check_after=0) as pool:
        first = await backend(server, pool)
        await asyncio.sleep(0.01)
        assert await backend(server, pool) == first
        assert pings == []

        kill(server, first)
        with pytest.raises(database.errors):
            await backend(server, pool)
        assert await backend(server, pool) != first, "a dead one is not lent twice"


@with_blocking_servers
async def test_a_check_of_ones_own_decides_alone(server: Server, database: Database) -> None:
    verdict: Callable[[], object] = lambda: None  # noqa: E731 - it changes
    seen: list[str] = []

    def check(raw: Any) -> object:
        seen.append(threading.current_thread().name)
        with closing(raw.cursor()) as cursor:
            cursor.execute("SELECT 1")  # the transaction that this begins is ended by the pool
        return verdict()

    async with database.opened(check=check) as pool:
        first = await backend(server, pool)
        assert await backend(server, pool) == first
        assert seen == threads(pool.name)
        verdict = lambda: True  # noqa: E731
        assert await backend(server, pool) == first

        verdict = lambda: False  # noqa: E731
        second = await backend(server, pool)
        assert second != first
        verdict = lambda: 1 / 0  # noqa: E731
        assert await backend(server, pool) not in (first, second)
        assert pool.stats().discarded == 2


@with_blocking_servers
async def test_a_check_of_ones_own_judges_each_connection_by_itself(
    server: Server, database: Database
) -> None:
    bad: list[int] = []

    def check(raw: Any) -> bool:
        with closing(raw.cursor()) as cursor:
            postgres = isinstance(server, PostgresServer)
            cursor.execute(f"SELECT {'pg_backend_pid' if postgres else 'CONNECTION_ID'}()")
            return cursor.fetchone()[0] not in bad

    async with database.opened(check=check, max_size=3) as pool:
        found = await backends(server, pool, 3)
        bad.append(found[-1])
        assert await backend(server, pool) in found[:2]
        assert pool.stats().created == 3


# ------------------------------------------------------------------------------------------------
# Backends that die


@pytest.mark.parametrize("check", ["auto", "always"])
async def test_an_idle_connection_that_was_killed_is_never_lent(
    server: Server, database: Database, check: Any
) -> None:
    async with database.opened(check=check) as pool:
        first = await backend(server, pool)
        kill(server, first)
        await eventually(lambda: connections(server) == 0)
        async with pool.connection() as conn:
            assert await backend(server, conn) != first


async def test_one_dead_connection_retires_all_that_were_made_before_it(
    server: Server, database: Database
) -> None:
    async with database.opened(max_size=4) as pool:
        lent = await pool.get()
        veteran = await backend(server, lent)
        old = await backends(server, pool, 3)
        kill(server, old[-1])
        await eventually(lambda: connections(server) == 3)

        async with pool.connection() as conn:
            new = await backend(server, conn)
            assert new not in {*old, veteran}
            await eventually(lambda: pool.size == 2)
        assert await backend(server, lent) == veteran, "a lent one may finish"
        await lent.rollback()
        await pool.put(lent)
        await eventually(lambda: pool.size == pool.idle == 1)
        assert await backend(server, pool) == new
        await eventually(lambda: connections(server) == 1)


async def test_a_connection_killed_while_lent_fails_as_the_driver_says_and_is_closed(
    server: Server, database: Database
) -> None:
    async with database.opened(max_size=3) as pool:
        old = await backends(server, pool, 2)
        conn = await pool.get()
        mine = await backend(server, conn)
        kill(server, mine)
        with pytest.raises(database.errors):
            await conn.fetch_val("SELECT 1")
        assert pool.idle == 0
        await pool.put(conn)
        await eventually(lambda: pool.size == 0)  # its generation is gone with it
        assert await backend(server, pool) not in {*old, mine}
        assert pool.free == 3


async def test_a_one_shot_whose_backend_dies_fails_and_the_next_one_works(
    server: Server, database: Database
) -> None:
    sleep = "pg_sleep(30)" if isinstance(server, PostgresServer) else "SLEEP(30)"
    async with database.opened(max_size=2) as pool:
        first = await backend(server, pool)
        doomed = asyncio.create_task(pool.fetch_val(f"SELECT {sleep}"))
        await eventually(lambda: pool.stats().in_use == 1)
        await asyncio.sleep(0.1)
        kill(server, first)
        with pytest.raises(database.errors):
            await doomed
        assert await backend(server, pool) != first
        assert (pool.size, pool.free) == (1, 2)


async def test_waiters_get_live_connections_after_the_lent_ones_died(
    server: Server, database: Database
) -> None:
    async with database.opened(max_size=2) as pool:
        conns = [await pool.get(), await pool.get()]
        old = [await backend(server, conn) for conn in conns]
        waiters = [asyncio.create_task(backend(server, pool)) for _ in range(4)]
        await eventually(lambda: pool.waiting == 4)
        kill(server, *old)
        for conn in conns:
            with pytest.raises(database.errors):
                await conn.fetch_val("SELECT 1")
            await pool.put(conn)
        assert not set(old) & set(await asyncio.gather(*waiters))
        assert pool.free == 2


@pytest.mark.realtime
@pytest.mark.parametrize("driver", [mariadb_on, mariadb_natively])
async def test_connections_that_mariadb_found_idle_too_long_are_never_lent(
    mariadb: MariaDBServer, driver: Callable[[MariaDBServer], Database]
) -> None:
    # The look at the socket must find it: no ping is due.
    asked = {"init_command": "SET SESSION wait_timeout = 1", "check_after": 60}
    async with driver(mariadb).opened(max_size=3, **asked) as pool:
        old = await backends(mariadb, pool, 3)
        await eventually(lambda: connections(mariadb) == 0)
        assert await backend(mariadb, pool) not in old
        await eventually(lambda: pool.size == 1)


@pytest.mark.realtime
async def test_keepalive_keeps_connections_that_the_server_would_end(
    server: Server, database: Database
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "psycopg2": {"options": "-c idle_session_timeout=3000"},
        "asyncpg": {"server_settings": {"idle_session_timeout": "3000"}},
    }
    soon = ways.get(database.name, {"init_command": "SET SESSION wait_timeout = 3"})
    driver, pings = counting(database.module)
    async with database.opened(driver=driver, keepalive=0.2, check=None, **soon) as pool:
        first = await backends(server, pool, 2)
        await asyncio.sleep(4)
        assert sorted(await backends(server, pool, 2)) == sorted(first)
        assert set(pings) == set(at_work(pool))
        assert len(pings) > 4
        assert pool.stats().created == 2


async def test_keepalive_replaces_a_dead_connection_before_anybody_wants_it(
    server: Server, database: Database
) -> None:
    async with database.opened(min_size=2, keepalive=0.05) as pool:
        old = await backends(server, pool, 2)
        kill(server, old[0])
        await eventually(lambda: pool.stats().created == 4 and pool.idle == 2)
        assert not set(await backends(server, pool, 2)) & set(old)


# ------------------------------------------------------------------------------------------------
# A server that became read-only


@contextmanager
def read_only(server: Server) -> Iterator[None]:
    """What sessions that are open already notice, too, as after a failover."""

    def switch(*, on: bool) -> None:
        if isinstance(server, PostgresServer):
            tell(server, f"ALTER SYSTEM SET default_transaction_read_only = {on}")
            tell(server, "SELECT pg_reload_conf()")
        else:
            tell(server, f"SET GLOBAL read_only = {on}")

    switch(on=True)
    try:
        yield
    finally:
        switch(on=False)


@pytest.fixture
def failover(server: Server) -> Iterator[None]:
    """A table that the ordinary user may write to, as long as anybody may."""
    tell(server, "CREATE TABLE failover (n integer)")
    if isinstance(server, PostgresServer):
        tell(server, "GRANT ALL ON failover TO PUBLIC")
    yield
    tell(server, "DROP TABLE failover")


def says_read_only(error: Exception) -> bool:
    state = getattr(error, "pgcode", getattr(error, "sqlstate", None))
    return state == "25006" or error.args[0] == 1290


async def fails_to_write(pool: ConnectionPool) -> bool:
    try:
        await pool.execute("DELETE FROM failover")
    except Exception as error:
        if not says_read_only(error):
            raise
        return True
    return False


@pytest.mark.usefixtures("failover")
async def test_a_server_that_became_read_only_retires_every_connection(
    server: Server, database: Database
) -> None:
    async with database.opened(max_size=3) as pool, asyncio.timeout(60):
        old = await backends(server, pool, 3)
        with read_only(server):
            while not await fails_to_write(pool):  # noqa: ASYNC110 - the signal is on its way
                await asyncio.sleep(0.01)
            await eventually(lambda: pool.size == 0)
        assert await backend(server, pool) not in old
        while await fails_to_write(pool):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        assert pool.free == 3


@pytest.mark.usefixtures("failover")
async def test_lent_connections_to_a_read_only_server_are_closed_on_return(
    server: Server, database: Database
) -> None:
    async with database.opened(max_size=2) as pool, asyncio.timeout(60):
        conns = [await pool.get(), await pool.get()]
        old = [await backend(server, conn) for conn in conns]
        await conns[0].rollback()
        with read_only(server):
            failed = False
            while not failed:
                try:
                    await conns[0].execute("DELETE FROM failover")
                except database.errors as error:
                    if not (failed := says_read_only(error)):
                        raise
                await conns[0].rollback()
        assert await conns[1].fetch_val("SELECT 1") == 1, "a lent one may finish"
        for conn in conns:
            await pool.put(conn)
        await eventually(lambda: pool.size == 0)
        assert await backend(server, pool) not in old
