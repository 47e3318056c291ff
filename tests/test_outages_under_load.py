"""Servers that are restarted, kill every backend or are full, under load: what comes of it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import connections, eventually, kill_all, left_of, tell
from support.databases import Database
from support.figures import Note
from support.fixtures import SERVED, described
from support.load import Load
from support.servers import PostgresServer, Server

pytestmark = [pytest.mark.realtime, pytest.mark.proof]

TASKS = 50
SIZE = 8
OUTAGE = 0.5  # seconds from the end of the server to its new start
LONGEST_STEP = 2.0  # seconds between two attempts to connect, at most
BOUND = 5.0  # seconds by which a slow machine may be late


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


async def is_whole(pool: ConnectionPool, server: Server) -> None:
    """Wait until nothing is in use any more, and look whether anything is missing, or left."""
    await eventually(lambda: pool.free == pool.max_size and pool.idle == pool.size)
    check_invariants(pool)
    await eventually(lambda: connections(server) == pool.size)


@pytest.mark.parametrize("retry", [0.0, 30.0], ids=["at once", "retried"])
async def test_after_a_restart_under_load_the_first_answer_comes_within_one_step_of_backoff(
    server: Server, database: Database, retry: float, note: Note
) -> None:
    loop = asyncio.get_running_loop()
    async with database.pool(
        max_size=SIZE, retry_connect=retry, connect_timeout=1.0, cancel_grace=0.3
    ) as pool:
        load = Load(pool, database, tasks=TASKS)
        await load.goes_on(2 * TASKS)
        assert load.ends["failed"] == 0

        await asyncio.to_thread(server.restart, OUTAGE)
        back = loop.time()
        await load.goes_on(4 * TASKS)
        await load.stop()

        gap, first = max(
            (later - sooner, later)
            for sooner, later in zip(load.answered, load.answered[1:], strict=False)
        )
        assert gap > OUTAGE, "there was an outage"
        note(
            "first answer", f"{first - back:+.3f} s after the server was back, {gap:.2f} s in all"
        )
        note("the slowest request outlived its timeout by", f"{1000 * load.late:.0f} ms")
        note("requests", ", ".join(f"{count} {end}" for end, count in load.ends.items()))
        assert first - back < LONGEST_STEP + BOUND
        assert load.late < BOUND

        await is_whole(pool, server)
    assert left_of(pool.name) == []
    await eventually(lambda: connections(server) == 0)


async def test_every_backend_killed_again_and_again_costs_only_what_ran(
    server: Server, database: Database, note: Note
) -> None:
    kills = 5
    async with database.pool(max_size=SIZE, cancel_grace=0.3) as pool:
        load = Load(pool, database, tasks=TASKS, timeouts=(2 * BOUND, 3 * BOUND))
        for _ in range(kills):
            await load.goes_on(TASKS)
            await asyncio.to_thread(kill_all, server)
        await load.goes_on(TASKS)
        await load.stop()
        note("requests", ", ".join(f"{count} {end}" for end, count in load.ends.items()))
        # A connection that dies fails its borrower, and one that is being made its waiter.
        assert 0 < load.ends["failed"] <= kills * 2 * SIZE
        assert load.ends["timed out"] == 0
        assert pool.stats().closed >= kills, "a kill retires every connection"
        await is_whole(pool, server)
    assert left_of(pool.name) == []
    await eventually(lambda: connections(server) == 0)


@contextmanager
def room_for(server: Server, count: int) -> Iterator[None]:
    """Have the server refuse the ordinary user's connections beyond so many, or about that."""
    if isinstance(server, PostgresServer):
        limit, usual = f"ALTER ROLE {server.user} CONNECTION LIMIT", -1
    else:
        limit = "SET GLOBAL max_connections ="
        usual = tell(server, "SELECT @@max_connections")[0][0]
    tell(server, f"{limit} {count}")
    try:
        yield
    finally:
        tell(server, f"{limit} {usual}")


async def test_a_server_with_too_little_room_serves_everybody_all_the_same(
    server: Server, database: Database, note: Note
) -> None:
    room = 10  # MariaDB has no less
    with room_for(server, room):
        async with database.pool(max_size=2 * room, retry_connect=30.0) as pool:
            load = Load(pool, database, tasks=TASKS, timeouts=(2 * BOUND, 3 * BOUND))
            await eventually(lambda: pool.stats().connect_errors > 0)
            await load.goes_on(4 * TASKS)
            await load.stop()
            note(
                "connections",
                f"{pool.stats().created} made, {pool.stats().connect_errors} refused",
            )
            assert load.ends.total() == load.ends["answered"]
            await is_whole(pool, server)
            assert pool.size <= room
    await eventually(lambda: connections(server) == 0)


@pytest.mark.parametrize(
    "database",
    [pytest.param(name, marks=pytest.mark.mariadb) for name in ("MySQLdb", "aiomysql")],
    indirect=True,
)
async def test_an_account_that_may_have_no_more_connections_is_a_reason_to_try_again(
    server: Server, database: Database
) -> None:
    tell(server, f"GRANT USAGE ON *.* TO '{server.user}'@'%' WITH MAX_USER_CONNECTIONS 2")
    try:
        async with database.pool(max_size=4, retry_connect=30.0) as pool:
            load = Load(pool, database, tasks=8, timeouts=(2 * BOUND, 3 * BOUND))
            await eventually(lambda: pool.stats().connect_errors > 0)
            await load.goes_on(TASKS)
            await load.stop()
            assert load.ends.total() == load.ends["answered"]
            await is_whole(pool, server)
    finally:
        tell(server, f"GRANT USAGE ON *.* TO '{server.user}'@'%' WITH MAX_USER_CONNECTIONS 0")
