"""Statements: rows, parameters, counts and order, the same with every driver."""

import asyncio
import re
from collections.abc import Callable

import pytest

from asyncdbpool import ConnectionPool
from support.databases import Database, Values, expected
from support.lines import written
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]


async def test_rows_come_all_or_one_or_its_value(database: Database, pool: ConnectionPool) -> None:
    sql, nothing = database.rows(3), database.rows(0)
    async with pool.connection() as conn:
        for lender in (pool, conn):
            assert await lender.fetch_all(sql) == expected(3)
            assert await lender.fetch_one(sql) == Values((1, "row 1"))
            assert await lender.fetch_val(sql) == 1
            assert await lender.fetch_val(sql, column=1) == "row 1"
            assert await lender.fetch_all(nothing) == []
            assert await lender.fetch_one(nothing) is None
            assert await lender.fetch_val(nothing) is None


async def test_a_value_is_found_by_its_column_s_name_where_rows_have_names(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(**subject.by_name)
    async with pool.connection() as conn:
        for lender in (pool, conn):
            if subject.has("names"):
                assert (await lender.fetch_one(database.rows(1)))["label"] == "row 1"
                assert await lender.fetch_val(database.rows(1), column="label") == "row 1"
            else:
                with pytest.raises(TypeError):
                    await lender.fetch_val(database.rows(1), column="label")
            assert await lender.fetch_val(database.rows(1), column=1) == "row 1"


async def test_parameters_are_a_sequence_or_a_mapping(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    def named(sql: str) -> str:
        return database.sql(re.sub(r":(\w+)", subject.named, sql))

    by_order = database.sql("SELECT name FROM wares WHERE id = ? AND name = ?")
    by_name = named("SELECT name FROM wares WHERE id = :id AND name = :name")
    change = named("UPDATE wares SET name = :new WHERE id = :id")
    await pool.execute(database.sql("INSERT INTO wares VALUES (?, ?)"), (1, "item 1"))
    async with pool.connection() as conn:
        for lender in (pool, conn):
            assert await lender.fetch_val(by_order, (1, "item 1")) == "item 1"
            assert await lender.fetch_val(by_order, [2, "item 1"]) is None
            if subject.has("mappings"):
                assert await lender.fetch_val(by_name, {"id": 1, "name": "item 1"}) == "item 1"
                assert len(await lender.fetch_all(by_name, {"id": 1, "name": "item 1"})) == 1
    if not subject.has("mappings"):
        if subject.has("refusal of mappings"):
            with pytest.raises((*database.errors, LookupError, TypeError)):
                await pool.fetch_val(by_order, {"id": 1, "name": "item 1"})
        return
    assert await pool.execute(change, {"new": "changed", "id": 1}) == 1
    assert await pool.fetch_val("SELECT name FROM wares") == "changed"


@pytest.mark.needs("executemany")
async def test_execute_counts_the_rows_that_it_changed(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    sets = [(n, f"item {n}") for n in (3, 4, 5)]
    update = "UPDATE wares SET name = 'other' WHERE id = 2"
    assert await pool.execute(database.inserts(1, 2)) == subject.counted(2)
    assert await pool.execute(update) == subject.counted(1)
    assert await pool.execute("DELETE FROM wares WHERE id = 7") == subject.counted(0)
    many = await pool.execute_many(database.sql("INSERT INTO wares VALUES (?, ?)"), sets)
    assert many == subject.many
    async with pool.connection() as conn, conn.transaction():
        sql = database.sql("INSERT INTO wares VALUES (?, ?)")
        assert await conn.execute_many(sql, [(6, "six"), (7, "seven"), (8, "eight")]) == many
    assert written(database) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_one_shot_that_fails_leaves_nothing_and_its_connection_goes_on(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    sql = database.sql("INSERT INTO wares VALUES (?, ?)")
    with pytest.raises(database.errors):
        await pool.execute_many(sql, [(1, "one"), (2, "two"), (1, "one again")])
    with pytest.raises(database.errors):
        await pool.fetch_all("SELECT nothing FROM wares")
    assert written(database) == []
    assert await pool.execute(database.inserts(1)) == subject.counted(1)
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_statements_of_several_tasks_run_one_after_the_other_in_their_order(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute(database.inserts(0))
        async with asyncio.TaskGroup() as tasks:
            for digit in range(1, 9):
                update = subject.saying(f"UPDATE wares SET id = id * 10 + {digit}")
                tasks.create_task(conn.run(update))
    assert written(database) == [12345678]
