"""What MariaDB and MySQL make of a session, the same with every driver for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers import find_driver
from support.databases import Database
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]

pytestmark = pytest.mark.needs("MariaDB")

SEVERAL = "CREATE OR REPLACE PROCEDURE several() BEGIN SELECT 1; SELECT 2; SELECT 3; END"


async def test_what_a_procedure_has_begun_in_autocommit_never_reaches_the_next_borrower(
    database: Database, subject: Subject, pools: Pools
) -> None:
    database.change(
        "CREATE OR REPLACE PROCEDURE half() BEGIN START TRANSACTION;"
        " INSERT INTO wares VALUES (1, 'one'); SELECT nothing FROM wares; END"
    )
    pool = pools(max_size=1, **subject.autocommits)
    async with pool.connection() as conn:
        with pytest.raises(database.errors, match="nothing"):
            await conn.execute("CALL half()")
    assert list(await pool.fetch_all("SELECT id FROM wares")) == []


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_results_that_nobody_reads_are_in_nobody_s_way(
    database: Database, pools: Pools, read: int
) -> None:
    database.change(SEVERAL)
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        cursor: Any = await conn.cursor()
        await cursor.execute("CALL several()")
        for result in range(1, read + 1):
            assert [tuple(row) for row in await cursor.fetchall()] == [(result,)]
            assert result == read or await cursor.nextset()
    assert await pool.fetch_val("SELECT 7") == 7
    assert pool.stats().created == 1


@pytest.mark.needs("procedures")
async def test_results_of_a_callproc_that_nobody_reads_are_in_nobody_s_way(
    database: Database, pools: Pools
) -> None:
    database.change(SEVERAL)
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        cursor: Any = await conn.cursor()
        await cursor.callproc("several")
    assert await pool.fetch_val("SELECT 7") == 7
    assert pool.stats().created == 1


@pytest.mark.needs("reset")
async def test_a_reset_needs_neither_a_database_nor_an_init_command(database: Database) -> None:
    without = find_driver(database.module).database_keyword, "init_command"
    kept = {key: value for key, value in database.arguments.items() if key not in without}
    async with replace(database, arguments=kept).opened(cleanup="reset", max_size=1) as pool:
        for _ in range(2):
            async with pool.connection() as conn:
                assert await conn.fetch_one("SELECT DATABASE(), @mine") == (None, None)
                await conn.execute("SET @mine = 1")
        assert pool.stats().created == 1
