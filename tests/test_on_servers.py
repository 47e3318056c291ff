"""Pools on real servers: set up once, one-shots, and connections used as often as agreed."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import MySQLdb
import MySQLdb.cursors
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from asyncdbpool import PoolTimeout
from support.access import (
    EACH_SERVER,
    backend,
    backends,
    change,
    connections,
    empty_notes,
    eventually,
    opened,
    threads,
    written,
)
from support.servers import PostgresServer, Server


@pytest.fixture(params=EACH_SERVER)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def notes(server: Server) -> Iterator[None]:
    with empty_notes(server):
        yield


# ------------------------------------------------------------------------------------------------
# Setup


@pytest.mark.usefixtures("notes")
async def test_setup_runs_once_for_each_connection_and_is_committed(server: Server) -> None:
    seen: list[str] = []

    def setup(raw: Any) -> None:
        seen.append(threading.current_thread().name)
        with closing(raw.cursor()) as cursor:
            cursor.execute(f"INSERT INTO notes VALUES ({len(seen)}, 'by setup')")
            if isinstance(server, PostgresServer):
                cursor.execute("SET application_name = 'set up'")
            else:
                cursor.execute("SET @application_name = 'set up'")

    look = (
        "SHOW application_name"
        if isinstance(server, PostgresServer)
        else "SELECT @application_name"
    )
    async with opened(server, setup=setup, min_size=1, max_size=2) as pool:
        assert written(server) == 1
        for _ in range(3):
            assert await pool.fetch_val(look) == "set up"
        await backends(server, pool, 2)
        assert written(server) == 2
        async with pool.connection() as conn:
            await conn.fetch_val(look)
            await conn.rollback()
            assert await conn.fetch_val(look) == "set up"
        assert sorted(seen) == sorted(threads(pool.name))


async def test_a_setup_that_raises_fails_the_get_and_leaves_no_connection(server: Server) -> None:
    working = False

    def setup(raw: Any) -> None:
        if not working:
            raise ZeroDivisionError("set up badly")

    async with opened(server, setup=setup) as pool:
        with pytest.raises(ZeroDivisionError, match="set up badly"):
            await pool.get()
        await eventually(lambda: pool.size == 0)
        await eventually(lambda: connections(server) == 0)
        working = True
        assert await pool.fetch_val("SELECT 1") == 1


# ------------------------------------------------------------------------------------------------
# One-shots, run


@pytest.mark.usefixtures("notes")
async def test_one_shots_commit_what_they_do(server: Server) -> None:
    async with opened(server) as pool:
        assert await pool.execute("INSERT INTO notes VALUES (1, 'a')") == 1
        assert written(server) == 1
        assert await pool.execute_many(
            "INSERT INTO notes VALUES (%s, %s)", [(2, "b"), (3, "c")]
        ) in (2, -1)
        assert written(server) == 3
        returning = "INSERT INTO notes VALUES (%s, 'd') RETURNING id, body"
        assert await pool.fetch_all(returning, (4,)) == [(4, "d")]
        assert await pool.fetch_one(returning, (5,)) == (5, "d")
        assert await pool.fetch_val(returning, (6,)) == 6
        assert written(server) == 6
        assert await pool.execute("UPDATE notes SET body = 'e' WHERE id > %s", (2,)) == 4
        assert await pool.fetch_one("SELECT * FROM notes WHERE id = 99") is None
        assert await pool.fetch_val("SELECT id FROM notes WHERE id = 99") is None
        assert await pool.fetch_all("SELECT id FROM notes WHERE id = 99") == []
        assert pool.stats().created == 1


@pytest.mark.usefixtures("notes")
async def test_a_one_shot_that_fails_is_rolled_back_at_once(server: Server) -> None:
    change(server, "INSERT INTO notes VALUES (3, 'there before')")
    async with opened(server) as pool:
        with pytest.raises(pool.module.IntegrityError):
            await pool.execute_many("INSERT INTO notes VALUES (%s, 'x')", [(1,), (2,), (3,)])
        assert written(server) == 1
        change(server, "DELETE FROM notes")  # would wait for a transaction left open
        assert await pool.fetch_val("SELECT count(*) FROM notes") == 0
        assert pool.stats().created == 1


@pytest.mark.usefixtures("notes")
async def test_a_function_runs_on_the_driver_s_own_connection_like_a_one_shot(
    server: Server,
) -> None:
    async with opened(server) as pool:

        def add(raw: Any, number: int, *, fail: bool = False) -> str:
            assert hasattr(raw, "cursor")
            with closing(raw.cursor()) as cursor:
                cursor.execute("INSERT INTO notes VALUES (%s, 'by hand')", (number,))
            if fail:
                raise ZeroDivisionError
            return threading.current_thread().name

        assert [await pool.run(add, 1)] == threads(pool.name)
        assert written(server) == 1
        with pytest.raises(ZeroDivisionError):
            await pool.run(add, 2, fail=True)
        assert written(server) == 1
        async with pool.connection() as conn:
            await conn.run(add, 3)
            await conn.rollback()
            await conn.run(add, 4)
            await conn.commit()
        assert await pool.fetch_all("SELECT id FROM notes ORDER BY id") == [(1,), (4,)]


@pytest.mark.usefixtures("notes")
async def test_fetch_val_takes_a_column_by_number_or_by_name(server: Server) -> None:
    change(server, "INSERT INTO notes VALUES (1, 'one')")
    dict_rows: dict[str, Any] = (
        {"cursor_factory": psycopg2.extras.RealDictCursor}
        if isinstance(server, PostgresServer)
        else {"cursorclass": MySQLdb.cursors.DictCursor}
    )
    sql = "SELECT id, body FROM notes"
    async with opened(server) as pool:
        assert await pool.fetch_val(sql) == 1
        assert await pool.fetch_val(sql, column=1) == "one"
        assert await pool.fetch_val(sql + " WHERE id = %s", (1,), column=-1) == "one"
        with pytest.raises(IndexError):
            await pool.fetch_val(sql, column=2)
    async with opened(server, **dict_rows) as pool:
        assert await pool.fetch_all(sql) == [{"id": 1, "body": "one"}]
        assert await pool.fetch_val(sql, column="body") == "one"
        assert await pool.fetch_val(sql) == 1
        assert await pool.fetch_val(sql, column=1) == "one"
        with pytest.raises(KeyError):
            await pool.fetch_val(sql, column="nothing")
        async with pool.connection() as conn:
            assert await conn.fetch_val(sql, column="body") == "one"
        assert pool.stats().created == 1


# ------------------------------------------------------------------------------------------------
# How long, how often, how many


async def test_a_connection_is_lent_max_uses_times(server: Server) -> None:
    async with opened(server, max_uses=3) as pool:
        found = [await backend(server, pool) for _ in range(7)]
        assert len(set(found[:3])) == len(set(found[3:6])) == 1
        assert len(set(found)) == 3
        await eventually(lambda: connections(server) == pool.size == 1)


@pytest.mark.realtime
async def test_a_connection_older_than_max_age_is_closed_but_never_while_lent(
    server: Server,
) -> None:
    async with opened(server, max_age=1.0) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            await asyncio.sleep(1.2)
            assert await backend(server, conn) == first
        assert pool.size == 0
        assert await backend(server, pool) != first
        assert pool.size == 1
        assert pool.stats().created == 2
        await eventually(lambda: pool.size == 0)  # nobody borrows, and it ages all the same
        await eventually(lambda: connections(server) == 0)
        assert pool.stats().discarded == 0


@pytest.mark.parametrize("option", ["max_age", "max_idle"])
async def test_with_no_time_to_live_every_return_closes(server: Server, option: str) -> None:
    async with opened(server, **{option: 0}) as pool:
        found = {await backend(server, pool) for _ in range(3)}
        assert len(found) == 3
        await eventually(lambda: connections(server) == pool.size == 0)
        assert pool.stats().created == pool.stats().closed == 3


@pytest.mark.realtime
async def test_idle_connections_above_min_size_are_closed(server: Server) -> None:
    async with opened(server, min_size=1, max_size=4, max_idle=1.0) as pool:
        found = await backends(server, pool, 4)
        assert len(set(found)) == 4
        await eventually(lambda: connections(server) == 4)
        await eventually(lambda: pool.size == 1)
        await eventually(lambda: connections(server) == 1)
        assert await backend(server, pool) == found[-1], "the one used last stays"
        assert (pool.stats().created, pool.stats().closed) == (4, 3)


async def test_clear_closes_the_idle_now_and_the_lent_on_return(server: Server) -> None:
    async with opened(server, max_size=3) as pool:
        old = set(await backends(server, pool, 3))
        lent = await pool.get()
        await pool.clear()
        assert pool.size == 1
        assert await backend(server, lent) in old, "who has one may go on with it"
        new = await backend(server, pool)
        assert new not in old
        await pool.put(lent)
        assert pool.size == 1
        assert await backend(server, pool) == new
        await eventually(lambda: connections(server) == 1)


async def test_resize_closes_what_is_too_much_and_makes_what_is_missing(server: Server) -> None:
    async with opened(server, max_size=4) as pool:
        conns = [await pool.get() for _ in range(4)]
        for conn in conns[:2]:
            await pool.put(conn)
        await pool.resize(max_size=1)
        assert (pool.max_size, pool.free) == (1, 0)
        await eventually(lambda: pool.size == 2)
        await pool.put(conns[2])
        await eventually(lambda: pool.size == 1)
        await pool.put(conns[3])
        assert (pool.size, pool.free) == (1, 1)
        await eventually(lambda: connections(server) == 1)

        async with pool.connection() as conn:
            waiter = asyncio.create_task(pool.fetch_val("SELECT 2"))
            await eventually(lambda: pool.waiting == 1)
            await pool.resize(max_size=2)
            assert await waiter == 2
            assert await conn.fetch_val("SELECT 1") == 1
        await pool.resize(min_size=3, max_size=5)
        await eventually(lambda: pool.idle == 3)
        await eventually(lambda: connections(server) == 3)


async def test_a_paused_pool_waits_for_its_borrowers_and_lends_nothing(server: Server) -> None:
    async with opened(server, max_size=2) as pool:
        conn = await pool.get()
        pausing = asyncio.create_task(pool.pause())
        await asyncio.sleep(0.05)
        assert not pausing.done()
        assert await conn.fetch_val("SELECT 1") == 1
        await pool.put(conn)
        await pausing
        assert pool.free == 0
        waiter = asyncio.create_task(pool.fetch_val("SELECT 2"))
        with pytest.raises(PoolTimeout, match="paused"):
            await pool.get(timeout=0.05)
        assert not waiter.done()
        pool.resume()
        assert await waiter == 2
        assert pool.free == 2


@pytest.mark.parametrize("rows", [1, 10])
async def test_a_named_cursor_that_ends_with_its_transaction_costs_nothing(
    postgres: PostgresServer, rows: int
) -> None:
    async with opened(postgres, max_size=1) as pool:
        for _ in range(2):
            async with pool.transaction() as conn:
                cursor = conn.cursor("named")
                await cursor.execute("SELECT n FROM generate_series(1, 1000) AS n")
                assert len(await cursor.fetchmany(rows)) == rows
            assert not await pool.fetch_one("SELECT 1 FROM pg_cursors")
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
