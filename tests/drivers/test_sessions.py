"""Sessions: autocommit, what a borrower changes, its thread, and what is known of it."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from support.databases import Database
from support.lines import begun, written
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]


@pytest.mark.needs("autocommit")
async def test_in_autocommit_a_statement_is_there_at_once_and_a_block_is_all_or_nothing(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1, **subject.autocommits)
    async with pool.connection() as conn:
        await conn.execute(database.inserts(1))
        assert written(database) == [1]
        async with conn.transaction():
            await conn.execute(database.inserts(2))
            assert written(database) == [1]
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(database.inserts(3))
                raise ZeroDivisionError
        await conn.execute(database.inserts(4))
        assert written(database) == [1, 2, 4]
    sets = [(5, "five"), (6, "six"), (5, "five again")]
    with pytest.raises(database.errors):
        await pool.execute_many(database.sql("INSERT INTO wares VALUES (?, ?)"), sets)
    assert written(database) == [1, 2, 4], "a one-shot is all or nothing, too"
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


@pytest.mark.needs("autocommit")
async def test_autocommit_of_one_borrower_does_not_reach_the_next(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        await subject.commit_each(conn)
        await conn.execute(database.inserts(1))
        await conn.rollback()
        assert written(database) == [1]
    async with pool.connection() as conn:
        await conn.execute(database.inserts(2))
        await conn.rollback()
    assert written(database) == [1]
    assert pool.stats().created == 1


async def test_each_connection_stays_on_one_thread(
    database: Database, subject: Subject, pools: Pools
) -> None:
    def whereabouts(_raw: Any) -> int:
        return threading.get_ident()

    async def here(_raw: Any) -> int:
        return threading.get_ident()

    ask: Any = here if subject.native else whereabouts
    pool = pools(max_size=2, setup=ask)
    async with pool.connection() as one, pool.connection() as two:
        found = []
        for conn in (one, two):
            threads = {await conn.run(ask)}
            await conn.execute(database.select(1))
            threads.add(await conn.run(ask))
            assert len(threads) == 1
            found.append(threads.pop())
    main = threading.get_ident()
    assert found == [main] * 2 if subject.native else len({main, *found}) == 3


async def test_an_open_transaction_is_told_without_asking_the_database(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    driver: Any = pool._driver

    async def probe(raw: Any) -> Any:
        return driver.in_transaction(raw)

    ask: Any = probe if subject.native else driver.in_transaction
    async with pool.connection() as conn:
        told = []
        for end in (conn.commit, conn.rollback):
            await begun(database, conn)
            await conn.execute(database.inserts(1))
            assert await conn.run(ask) is not False, "a False would hand it to the next"
            told.append(await conn.run(ask))
            await end()
            assert await conn.run(ask) is not True, "a True would cost a rollback each time"
            told.append(await conn.run(ask))
            await conn.execute("DELETE FROM wares")
            await conn.commit()
        await conn.fetch_all("SELECT id FROM wares")
        told.append(await conn.run(ask) is not None)
    if subject.has("probe"):
        assert told[:4] == [True, False] * 2
        assert told[4]


async def test_the_socket_is_that_of_the_connection(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    driver = pool._driver

    async def of(raw: Any) -> int | None:
        return driver.fileno(raw)

    async with pool.connection() as conn:
        number = await conn.run(of if subject.native else driver.fileno)
        if not subject.has("socket"):
            assert number is None
            return
        assert number is not None
        with closing(socket.socket(fileno=os.dup(number))) as seen:
            assert seen.getpeername()[1] == database.arguments["port"]


async def test_a_ping_proves_life_and_leaves_no_transaction(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1, check="always")
    for n in (1, 2):
        async with pool.connection() as conn:
            await begun(database, conn)
            await conn.execute(database.inserts(n))
    assert written(database) == ([] if subject.has("transactions") else [1, 2])
    database.change("DELETE FROM wares", database.inserts(3))
    assert await pool.fetch_val("SELECT id FROM wares") == 3
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)
