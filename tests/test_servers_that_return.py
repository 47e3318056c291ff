"""Servers that are down, come up, restart or want another password."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import MySQLdb
import psycopg2
import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned
from asyncdbpool.drivers import find_driver
from asyncdbpool.testing import check_invariants
from support.access import (
    backend,
    backends,
    connections,
    eventually,
    left_of,
    login,
    tell,
)
from support.databases import (
    Database,
    mariadb_natively,
    mariadb_on,
    postgres_natively,
    postgres_on,
)
from support.fixtures import SERVED, described
from support.servers import MariaDBServer, PostgresServer, Server, ServerMissing, free_port


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


NATIVE = [
    pytest.param((PostgresServer, postgres_natively), id="asyncpg", marks=pytest.mark.postgres),
    pytest.param((MariaDBServer, mariadb_natively), id="aiomysql", marks=pytest.mark.mariadb),
]


@pytest.fixture(
    params=[
        pytest.param((PostgresServer, postgres_on), id="psycopg2", marks=pytest.mark.postgres),
        pytest.param((MariaDBServer, mariadb_on), id="MySQLdb", marks=pytest.mark.mariadb),
        *NATIVE,
    ]
)
def own(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Database]]:
    """A server of the test's own, not started yet, and its database."""
    kind, describe = request.param
    try:
        server: Server = kind()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    yield server, describe(server)
    server.stop()


def down(database: Database) -> tuple[type[Exception], ...]:
    """What a driver raises where nobody listens: its own error, or the system's."""
    return *database.errors, OSError


# ------------------------------------------------------------------------------------------------
# Servers that come and go


@pytest.mark.realtime
async def test_the_first_get_after_a_restart_succeeds(own: tuple[Server, Database]) -> None:
    own_server, database = own
    await asyncio.to_thread(own_server.start)
    async with database.opened(max_size=3, min_size=2) as pool:
        old = await backends(own_server, pool, 3)
        lent = await pool.get()
        await backend(own_server, lent)
        await asyncio.to_thread(own_server.restart)
        with pytest.raises(database.errors):
            await lent.fetch_val("SELECT 1")
        async with pool.connection() as conn:
            assert await conn.fetch_val("SELECT 1") == 1
        await pool.put(lent)
        await eventually(lambda: pool.idle == pool.size >= 2)
        # MariaDB counts from 1 again, so only figures tell old from new.
        assert pool.stats().closed == len(old)
        assert pool.free == 3
        assert await asyncio.gather(*(pool.fetch_val("SELECT 1") for _ in range(9))) == [1] * 9


@pytest.mark.realtime
@pytest.mark.parametrize("own", NATIVE, indirect=True)
async def test_a_restart_under_load_fails_what_runs_and_no_more(
    own: tuple[Server, Database],
) -> None:
    own_server, database = own
    ends: Counter[bool] = Counter()

    async def work(pool: ConnectionPool) -> None:
        while not over.is_set():
            try:
                assert await pool.fetch_val("SELECT 7") == 7
                ends[True] += 1
            except database.errors:
                ends[False] += 1

    over = asyncio.Event()
    await asyncio.to_thread(own_server.start)
    async with database.opened(max_size=4, timeout=60, retry_connect=60) as pool:
        tasks = [asyncio.create_task(work(pool)) for _ in range(12)]
        await eventually(lambda: ends[True] > 100)
        await asyncio.to_thread(own_server.restart)
        before = ends[True]
        await eventually(lambda: ends[True] > before + 100)
        over.set()
        await asyncio.gather(*tasks)
        assert ends[False] <= 3 * 4, "the four that ran, and some that came in the very moment"
        await eventually(lambda: pool.free == 4)
        check_invariants(pool)


@pytest.mark.realtime
async def test_a_server_that_is_down_fails_at_once_and_recovers_at_once(
    own: tuple[Server, Database],
) -> None:
    own_server, database = own
    await asyncio.to_thread(own_server.start)
    own_server.stop()
    async with database.opened(max_size=2) as pool:
        for _ in range(3):
            with pytest.raises(down(database)):
                await pool.get()
        await asyncio.to_thread(own_server.start)
        assert await pool.fetch_val("SELECT 1") == 1
        assert (pool.size, pool.free) == (1, 2)


@pytest.mark.realtime
async def test_retry_connect_waits_for_a_server_that_is_coming_up(
    own: tuple[Server, Database],
) -> None:
    own_server, database = own
    async with database.opened(max_size=2, timeout=60, retry_connect=60) as pool:
        early = [asyncio.create_task(pool.fetch_val("SELECT 1")) for _ in range(4)]
        await eventually(lambda: pool.stats().connect_errors > 0)
        assert pool.waiting == 4
        await asyncio.to_thread(own_server.start)
        assert await asyncio.gather(*early) == [1] * 4
        assert pool.free == 2


async def test_retry_connect_ends_with_the_driver_s_error(database: Database) -> None:
    async with database.opened(port=free_port(), retry_connect=2) as pool:
        with pytest.raises(down(database)):
            await pool.get()
        assert pool.stats().connect_errors > 1
        assert pool.stats().timeouts == 0


@pytest.mark.parametrize("wrong", ["password", "database", "keyword"])
async def test_what_is_wrong_for_good_is_not_retried(database: Database, wrong: str) -> None:
    mistakes: dict[str, dict[str, Any]] = {
        "password": {"password": "guess"},
        "database": {
            find_driver(database.module).database_keyword: "nowhere",
            "user": Server.admin,
        },
        "keyword": {"no_such_keyword": 1},
    }
    async with database.opened(retry_connect=60, timeout=90, **mistakes[wrong]) as pool:
        with pytest.raises((*database.errors, TypeError)):
            async with asyncio.timeout(20):
                await pool.get()
        assert pool.stats().connect_errors == 1


@pytest.mark.parametrize("driver", [postgres_on, postgres_natively])
async def test_postgresql_s_too_many_connections_is_a_reason_to_try_again(
    postgres: PostgresServer, driver: Callable[[PostgresServer], Database]
) -> None:
    with role(postgres, "crowded"):
        tell(postgres, "ALTER ROLE crowded CONNECTION LIMIT 1")
        taken = psycopg2.connect(**login(postgres, user="crowded", password="one"))
        asked = {"user": "crowded", "password": "one", "retry_connect": 30}
        async with driver(postgres).opened(**asked) as pool:
            waiter = asyncio.create_task(pool.fetch_val("SELECT 1"))
            await eventually(lambda: pool.stats().connect_errors > 0)
            taken.close()
            assert await waiter == 1


@pytest.mark.parametrize("driver", [mariadb_on, mariadb_natively])
async def test_mariadb_s_too_many_connections_is_a_reason_to_try_again(
    mariadb: MariaDBServer, driver: Callable[[MariaDBServer], Database]
) -> None:
    usual = tell(mariadb, "SELECT @@max_connections")[0][0]
    tell(mariadb, "SET GLOBAL max_connections = 10")
    taken: list[Any] = [MySQLdb.connect(**login(mariadb)) for _ in range(10)]
    try:
        async with driver(mariadb).opened(retry_connect=30) as pool:
            waiter = asyncio.create_task(pool.fetch_val("SELECT 1"))
            await eventually(lambda: pool.stats().connect_errors > 0)
            taken.pop().close()
            assert await waiter == 1
    finally:
        for connection in taken:
            connection.close()
        tell(mariadb, f"SET GLOBAL max_connections = {usual}")


# ------------------------------------------------------------------------------------------------
# Credentials


@contextmanager
def role(server: Server, name: str) -> Iterator[None]:
    """Another ordinary user, whose password is `one`."""
    if isinstance(server, PostgresServer):
        tell(server, f"CREATE ROLE {name} LOGIN PASSWORD 'one'")
        yield
        tell(server, f"DROP ROLE {name}")
    else:
        tell(server, f"CREATE USER {name} IDENTIFIED BY 'one'")
        tell(server, f"GRANT SELECT ON {server.database}.* TO {name}")
        yield
        tell(server, f"DROP USER {name}")


def change_password(server: Server, name: str, password: str) -> None:
    if isinstance(server, PostgresServer):
        tell(server, f"ALTER ROLE {name} PASSWORD '{password}'")
    else:
        tell(server, f"ALTER USER {name} IDENTIFIED BY '{password}'")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_credentials_are_asked_once_for_each_physical_connect(
    server: Server, database: Database, kind: str
) -> None:
    asked: list[str] = []

    def at_once() -> dict[str, Any]:
        asked.append(threading.current_thread().name)
        return dict(database.arguments)

    async def later() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return at_once()

    credentials = at_once if kind == "sync" else later
    pool = ConnectionPool(database.module, credentials=credentials, user="nobody", max_size=3)
    async with pool:
        assert asked == []
        await backends(server, pool, 2)
        await backends(server, pool, 2)
        assert len(asked) == 2
        await pool.clear()
        await backends(server, pool, 3)
        assert len(asked) == pool.stats().created == 5
        beside_the_loop = {name != threading.current_thread().name for name in asked}
        assert beside_the_loop == {kind == "sync"}


async def test_a_rotated_password_is_used_from_the_next_connect_on(
    server: Server, database: Database
) -> None:
    password = "one"
    with role(server, "rotor"):
        asked: dict[str, Any] = {
            "user": "rotor",
            "password": "stale",
            "credentials": lambda: {"password": password},
        }
        async with database.opened(max_size=2, **asked) as pool:
            first = await backend(server, pool)
            change_password(server, "rotor", "two")
            assert await backend(server, pool) == first, "what is open stays open"
            async with pool.connection():
                with pytest.raises(database.errors):
                    await pool.get()  # still the old password
                password = "two"
                assert await backend(server, pool) != first
            assert pool.stats().connect_errors == 1
            assert pool.free == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_credentials_that_raise_fail_the_get_and_leave_nothing(
    database: Database, kind: str
) -> None:
    working = False

    def at_once() -> dict[str, Any]:
        if not working:
            raise LookupError("the vault is sealed")
        return dict(database.arguments)

    async def later() -> dict[str, Any]:
        return at_once()

    credentials = at_once if kind == "sync" else later
    async with ConnectionPool(database.module, credentials=credentials) as pool:
        with pytest.raises(LookupError, match="the vault is sealed"):
            await pool.get()
        await eventually(lambda: pool.size == 0)
        assert pool.free == 10
        working = True
        assert await pool.fetch_val("SELECT 1") == 1


async def test_nothing_is_left_on_the_server_after_close(
    server: Server, database: Database
) -> None:
    pool = database.pool(min_size=3)
    async with pool:
        conn = await pool.get()
        await eventually(lambda: connections(server) == pool.size == 3)
        closing_pool = asyncio.create_task(pool.close(timeout=0.05))
        await closing_pool
        with pytest.raises(ConnectionReturned):
            await conn.fetch_val("SELECT 1")
        await eventually(lambda: connections(server) == 0)
        assert left_of(pool.name) == []
