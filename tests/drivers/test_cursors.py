"""PEP 249's cursors: whatever the driver's own do, those of a lent connection do, too.

Each script is told to a cursor of the driver's and to one of the pool's, on the same connection;
what they answer, values, types and errors, must be the same.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from support.databases import Database, expected
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]

pytestmark = pytest.mark.needs("cursors")

Step = tuple[str, tuple[Any, ...]]
Script = Callable[[Database], list[Step]]

FACTS = ("description", "rowcount", "rownumber", "arraysize", "lastrowid")
"""Attributes of PEP 249, extensions included; they are looked at after the steps."""


def step(method: str, *args: Any) -> Step:
    return method, args


SCRIPTS: dict[str, Script] = {
    "rows one by one": lambda db: [
        step("execute", db.rows(3)),
        *[step("fetchone")] * 5,
    ],
    "some rows": lambda db: [
        step("execute", db.rows(7)),
        step("fetchmany", 2),
        step("fetchmany"),
        step("fetchmany", 100),
        step("fetchmany", 1),
    ],
    "as many as said": lambda db: [
        step("execute", db.rows(7)),
        step("=arraysize", 3),
        step("fetchmany"),
        step("fetchmany"),
        step("fetchmany"),
    ],
    "all rows": lambda db: [
        step("execute", db.rows(2000)),
        step("fetchone"),
        step("fetchall"),
        step("fetchall"),
        step("fetchone"),
    ],
    "no rows": lambda db: [
        step("execute", db.rows(0)),
        step("fetchone"),
        step("fetchall"),
        step("fetchmany", 3),
    ],
    "a mixture": lambda db: [
        step("execute", db.rows(600)),
        step("fetchone"),
        step("fetchmany", 300),
        step("fetchone"),
        step("fetchall"),
    ],
    "iteration": lambda db: [
        step("execute", db.rows(600)),
        step("fetchone"),
        step("for"),
        step("for"),
    ],
    "another statement": lambda db: [
        step("execute", db.rows(600)),
        step("fetchone"),
        step("execute", db.select(7)),
        step("fetchall"),
    ],
    "a change": lambda db: [
        step("execute", db.inserts(1, 2)),
        step("execute", "UPDATE wares SET name = 'other' WHERE id = 2"),
        step("execute", "SELECT id, name FROM wares ORDER BY id"),
        step("fetchall"),
        step("execute", "DELETE FROM wares WHERE id = 7"),
    ],
    "rows of a change": lambda db: [
        step("execute", db.inserts(1)),
        step("fetchone"),
        step("fetchall"),
    ],
    "sets of parameters": lambda db: [
        step("executemany", db.sql("INSERT INTO wares VALUES (?, ?)"), [(1, "one"), (2, "two")]),
        step("execute", "SELECT id, name FROM wares ORDER BY id"),
        step("fetchall"),
    ],
    "parameters": lambda db: [
        step("execute", db.sql("INSERT INTO wares VALUES (?, ?)"), (1, "one")),
        step("execute", db.sql("SELECT name FROM wares WHERE id = ?"), (1,)),
        step("fetchall"),
        step("execute", db.sql("SELECT name FROM wares WHERE id = ?"), (2,)),
        step("fetchall"),
    ],
    "sizes": lambda db: [
        step("setinputsizes", [None]),
        step("setoutputsize", 1000),
        step("setoutputsize", 1000, 0),
        step("execute", db.select(7)),
        step("fetchall"),
    ],
    "before any statement": lambda _db: [step("fetchone"), step("fetchmany", 2)],
    "all, before any statement": lambda _db: [step("fetchall")],
    "an error": lambda db: [
        step("execute", "SELECT nothing FROM wares"),
    ],
    "a duplicate": lambda db: [
        step("execute", db.inserts(1)),
        step("execute", db.inserts(1)),
    ],
    "wrong parameters": lambda db: [
        step("execute", db.sql("SELECT id FROM wares WHERE id = ? AND id = ?"), (1,)),
    ],
    "the next result": lambda db: [
        step("execute", db.select(7)),
        step("nextset"),
    ],
    "positions": lambda db: [
        step("execute", db.rows(600)),
        step("fetchone"),
        step("scroll", 10),
        step("fetchone"),
        step("scroll", 5, "absolute"),
        step("fetchmany", 2),
        step("scroll", 10_000),
        step("fetchone"),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_cursor_answers_as_the_driver_s_own(
    database: Database, subject: Subject, pool: ConnectionPool, script: str
) -> None:
    steps = SCRIPTS[script](database)
    async with pool.connection() as conn:
        wanted = await conn.run(asking if subject.native else asking_blockingly, steps)
        await conn.rollback()
        database.change("DELETE FROM wares")  # DuckDB commits each statement by itself
        assert await asking(conn, steps) == wanted


@pytest.mark.needs("procedures")
async def test_a_procedure_gives_what_it_gives_with_the_driver_s_own(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    database.change(subject.procedure)
    steps = [step("callproc", "doubled", (21,)), step("fetchall"), step("nextset")]
    async with pool.connection() as conn:
        wanted = await conn.run(asking if subject.native else asking_blockingly, steps)
        await conn.rollback()
        assert await asking(conn, steps) == wanted
    async with pool.connection() as conn, conn.cursor() as cursor:
        returned = await cursor.callproc("doubled", (21,))
        rows = [tuple(row) for row in await cursor.fetchall()]
        assert subject.twice(returned, rows) == 42


@pytest.mark.needs("closed cursors")
async def test_a_closed_cursor_can_be_closed_again_and_no_more(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        cursor = await on_a_new_cursor(conn, database.rows(3))
        await cursor.close()
        await cursor.close()
        assert not cursor or database.native, "a native driver's own tells by errors"
        for use in (cursor.fetchone, cursor.fetchall, cursor.fetchmany):
            with pytest.raises(database.errors):
                await use()
        with pytest.raises(database.errors):
            await cursor.execute(database.select(1))


@pytest.mark.needs("result sets")
async def test_several_results_are_read_one_after_the_other(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool, one, two = pools(**subject.several), database.select(1), database.select(2)
    async with pool.connection() as conn, conn.cursor() as cursor:
        await cursor.execute(f"{one}; {two}")
        first = [tuple(row) for row in await cursor.fetchall()]
        assert await moved_on(cursor)
        second = [tuple(row) for row in await cursor.fetchall()]
        assert (first, second) == ([(1,)], [(2,)])
        assert not await moved_on(cursor)
        await cursor.execute(f"{database.rows(600)}; {two}")
        assert tuple(await cursor.fetchone()) == (1, "row 1")
        assert await moved_on(cursor), "the rows that were read ahead are of the past"
        assert [tuple(row) async for row in cursor] == [(2,)]


@pytest.mark.needs("result sets")
@pytest.mark.parametrize("read", [0, 1])
async def test_results_that_nobody_has_read_never_reach_the_next_borrower(
    database: Database, subject: Subject, pools: Pools, read: int
) -> None:
    pool, one, two = pools(max_size=1, **subject.several), database.select(1), database.select(2)
    async with pool.connection() as conn:
        cursor = await on_a_new_cursor(conn, f"{one}; {two}; {two}")
        if read:
            assert tuple(await cursor.fetchone()) == (1,)
    assert await pool.fetch_val(database.select(7)) == 7
    assert pool.stats().created == 1


async def test_rows_come_ahead_and_none_is_lost(database: Database, pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        cursor = await on_a_new_cursor(conn, database.rows(5000))
        seen = [tuple(await cursor.fetchone())]
        async for row in cursor:
            seen.append(tuple(row))
            if len(seen) == 700:
                break
        seen += map(tuple, await cursor.fetchmany(600))
        seen += [tuple(row) async for row in cursor]
        assert seen == expected(5000)


# ------------------------------------------------------------------------------------------------
# Asking a cursor


async def on_a_new_cursor(conn: Any, sql: str) -> Any:
    cursor = await conn.cursor()
    await cursor.execute(sql)
    return cursor


async def moved_on(cursor: Any) -> bool:
    """Go to the next result; psycopg's asynchronous cursors have it there already."""
    answer = cursor.nextset()
    return bool(await answer if inspect.isawaitable(answer) else answer)


def asking_blockingly(raw: Any, steps: list[Step]) -> list[Any]:
    """Ask a blocking driver's own cursor."""
    coroutine = asking(raw, steps)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answers: list[Any] = stop.value
        return answers
    raise AssertionError("a blocking driver waits for nothing")


async def asking(raw: Any, steps: list[Step]) -> list[Any]:
    """Ask a cursor of a connection, blocking or not."""
    cursor = raw.cursor()
    if inspect.isawaitable(cursor):
        cursor = await cursor
    answers = [await answer(cursor, step) for step in steps]
    with suppress(Exception):
        closing = cursor.close()
        if inspect.isawaitable(closing):
            await closing
    return answers


async def answer(cursor: Any, step: Step) -> list[Any]:
    """Take a step, and tell what comes of it and what the cursor says of itself then."""
    name, args = step
    found: list[Any] = [name]
    try:
        if name.startswith("="):
            setattr(cursor, name.removeprefix("="), *args)
        elif name == "for":
            found.append([plain(row) async for row in one_by_one(cursor, 5)])
        else:
            value = getattr(cursor, name)(*args)
            if inspect.isawaitable(value):
                value = await value
            if name not in ("execute", "executemany"):
                found.append(plain(value))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return [*found, type(error).__name__, said_by(error)]
    if name != "nextset":  # behind the last result, a look at mariadb's own ends the process
        found.append(facts(cursor))
    return found


async def one_by_one(cursor: Any, count: int) -> AsyncIterator[Any]:
    """Iterate over some rows, and leave the rest."""
    if hasattr(cursor, "__aiter__"):
        async for row in cursor:
            yield row
            count -= 1
            if not count:
                return
    elif hasattr(cursor, "__next__"):
        for row in islice(cursor, count):
            yield row
    else:
        for row in islice(iter(cursor.fetchone, None), count):  # DuckDB's cannot be iterated over
            yield row


def said_by(error: Exception) -> str:
    """Return an error's message; what cursors are called in it is of no interest."""
    return "no such attribute" if isinstance(error, AttributeError) else str(error)


def facts(cursor: Any) -> dict[str, Any]:
    """Return PEP 249's attributes, as far as they say something."""
    return {name: plain(getattr(cursor, name, None)) for name in FACTS}


def plain(value: Any) -> Any:
    """Return what can be compared; pyodbc's rows and psycopg's columns cannot."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return type(value).__name__, [plain(item) for item in value]
    if hasattr(value, "cursor_description"):
        return "row", tuple(value)
    return value
