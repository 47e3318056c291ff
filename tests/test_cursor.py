"""A cursor of a lent connection gives what the driver's own gives, in far fewer hops."""

import asyncio
import inspect
import io
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import MySQLdb.cursors
import psycopg2.extensions
import psycopg2.extras
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned, Cursor
from asyncdbpool._cursor import BATCH, MORE
from asyncdbpool._workers import Job
from asyncdbpool.testing import Fake, settle, virtual_time
from support.databases import Database, expected

SIZES = [0, 1, BATCH - 1, BATCH, BATCH + 1, 600, 1500]


# ------------------------------------------------------------------------------------------------
# Ways to a cursor


async def test_a_cursor_is_made_with_and_without_await(
    database: Database, conn: Connection
) -> None:
    plain = conn.cursor()
    awaited = await conn.cursor()
    async with conn.cursor() as entered:
        for cursor in (plain, awaited, entered):
            assert isinstance(cursor, Cursor)
            assert await cursor.execute(database.rows(2)) is cursor
            assert list(await cursor.fetchall()) == expected(2)
        await plain.close()
        await awaited.close()
    assert not entered


async def test_a_statement_is_a_block_that_closes_its_cursor(
    database: Database, conn: Connection
) -> None:
    async with conn.execute(database.rows(600)) as cursor:
        assert await cursor.fetchone() == (1, "row 1")
    assert not cursor
    assert await conn.fetch_val(database.rows(1)) == 1


async def test_a_statement_of_a_cursor_is_a_block_too(
    database: Database, conn: Connection
) -> None:
    async with conn.cursor().execute(database.rows(1)) as cursor:
        assert await cursor.fetchone() == (1, "row 1")
    assert not cursor


async def test_a_block_that_fails_closes_its_cursor(database: Database, conn: Connection) -> None:
    with pytest.raises(LookupError):
        async with conn.execute(database.rows(600)) as cursor:
            raise LookupError
    assert not cursor


async def test_a_statement_becomes_a_task(database: Database, conn: Connection) -> None:
    task = asyncio.create_task(conn.execute(database.rows(1)))
    cursor = await task
    assert await cursor.fetchone() == (1, "row 1")


async def test_statements_are_gathered_and_timed(database: Database, conn: Connection) -> None:
    one, two = await asyncio.gather(
        conn.execute(database.rows(1)), conn.execute(database.rows(600))
    )
    assert [row async for row in two] == expected(600)
    assert [row async for row in one] == expected(1)
    three = await asyncio.wait_for(conn.execute(database.rows(3)), timeout=30)
    assert list(await three.fetchall()) == expected(3)


async def test_a_failed_statement_raises_in_every_way_to_run_it(conn: Connection) -> None:
    async def enter() -> None:
        async with conn.execute("SELECT nonsense FROM nowhere"):
            raise AssertionError("not reached")

    runs: list[Awaitable[object]] = [
        conn.execute("SELECT nonsense FROM nowhere"),
        asyncio.create_task(conn.execute("SELECT nonsense FROM nowhere")),
        enter(),
    ]
    for run in runs:
        with pytest.raises(conn.Error):
            await run
        await conn.rollback()


async def test_a_cursor_runs_one_statement_after_the_other(
    database: Database, conn: Connection
) -> None:
    cursor = conn.cursor()
    for count in (600, 0, 1, 300):
        await cursor.execute(database.rows(count))
        assert list(await cursor.fetchmany(200)) == expected(count)[:200]


# ------------------------------------------------------------------------------------------------
# Facts about the result


async def test_before_its_first_statement_a_cursor_has_the_defaults_of_pep_249(
    conn: Connection, hops: list[Job]
) -> None:
    cursor = conn.cursor()
    assert cursor.rowcount == -1
    assert cursor.description is None
    assert cursor.arraysize == 1
    assert cursor.lastrowid is None
    assert cursor.rownumber is None
    assert cursor.connection is conn
    assert cursor
    assert repr(cursor) == f"<Cursor of {conn!r}>"
    assert hops == []


async def test_fetching_before_the_first_statement_is_the_drivers_affair(
    database: Database, conn: Connection
) -> None:
    raw = database.connect()
    for fetch in ("fetchone", "fetchmany", "fetchall"):
        plain = raw.cursor()
        pooled = conn.cursor()
        assert await outcome(getattr(pooled, fetch)) == await outcome(getattr(plain, fetch))
        plain.close()
    raw.close()


async def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, Any]:
    """What a call gives or raises, be it the driver's or the pool's, fit for comparison."""
    try:
        value = call(*args, **kwargs)
        if isinstance(value, Awaitable):
            value = await value
    except Exception as error:  # noqa: BLE001 - whatever the driver raises is to be compared
        return "raised", type(error)
    return type(value).__name__, shown(value)


def shown(value: Any) -> Any:
    """A value with the types of its rows."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return [shown(each) for each in value]
    if isinstance(value, sqlite3.Row):
        return "Row", value.keys(), tuple(value)
    return type(value).__name__, value


async def test_the_facts_of_a_result_are_those_of_the_driver(
    database: Database, items: str, conn: Connection
) -> None:
    insert = database.sql("INSERT INTO items VALUES (?, ?)")
    statements: list[Step] = [
        ("execute", database.rows(600)),
        ("execute", insert, (1, "one")),
        ("execute", insert, (2, "two")),
        ("executemany", insert, [(3, "three"), (4, "four")]),
        ("execute", "UPDATE items SET name = 'x'"),
        ("execute", database.rows(0)),
    ]
    facts = ("description", "rowcount", "lastrowid", "arraysize")
    raw = database.connect()
    plain, pooled = raw.cursor(), conn.cursor()
    wanted, seen = [], []
    for name, *args in statements:
        getattr(plain, name)(*args)
        wanted.append([getattr(plain, fact) for fact in facts])
    plain.close()
    raw.rollback()
    raw.close()
    for name, *args in statements:
        await getattr(pooled, name)(*args)
        seen.append([getattr(pooled, fact) for fact in facts])
    assert seen == wanted


async def test_the_rowcount_of_changed_rows_that_come_back_is_that_of_the_driver(
    sqlite: Database,
) -> None:
    sqlite.change("CREATE TABLE items (id)")
    statement = f"INSERT INTO items SELECT n FROM ({sqlite.rows(3)}) RETURNING id"
    raw = sqlite.connect()
    plain = raw.execute(statement)
    trace = [(plain.rowcount, plain.fetchone()) for _ in range(5)]
    raw.rollback()
    raw.close()
    async with sqlite.pool() as pool, pool.connection() as conn:
        pooled = await conn.execute(statement)
        assert [(pooled.rowcount, await pooled.fetchone()) for _ in range(5)] == trace


async def test_the_last_inserted_row_is_told(mysql: Database) -> None:
    mysql.change(
        "DROP TABLE IF EXISTS counted",
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTO_INCREMENT, name TEXT)",
    )
    async with mysql.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("INSERT INTO counted (name) VALUES ('a')")
        assert cursor.lastrowid == 1
        await cursor.executemany("INSERT INTO counted (name) VALUES (%s)", [("b",), ("c",)])
        assert cursor.rowcount == 2
        await cursor.execute("INSERT INTO counted (name) VALUES ('d')")
        assert cursor.lastrowid == 4


async def test_arraysize_is_kept_for_the_birth_and_used_by_fetchmany(
    database: Database, conn: Connection
) -> None:
    cursor = conn.cursor()
    cursor.arraysize = 7
    assert cursor.arraysize == 7
    await cursor.execute(database.rows(600))
    assert cursor.arraysize == 7
    assert list(await cursor.fetchmany()) == expected(7)
    cursor.arraysize = 300
    assert list(await cursor.fetchmany()) == expected(600)[7:307]
    await cursor.execute(database.rows(600))
    assert cursor.arraysize == 300
    assert await conn.run(lambda raw: cursor._core.raw.arraysize) == 300


async def test_itersize_is_kept_for_the_birth(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor("named")
        cursor.itersize = 50
        assert cursor.itersize == 50
        await cursor.execute(postgresql.rows(3))
        assert cursor.itersize == 50
        assert cursor.name == "named"


async def test_an_attribute_unknown_before_the_birth_says_why(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor("named")
        with pytest.raises(AttributeError, match="first statement"):
            _ = cursor.itersize
        assert not hasattr(cursor, "no_such_thing")
        await cursor.execute(postgresql.rows(3))
        assert cursor.itersize == 2000
        assert not hasattr(cursor, "no_such_thing")
        assert not hasattr(cursor, "__no_such_thing__")


async def test_the_drivers_own_methods_of_a_cursor_are_awaitable(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        assert await cursor.mogrify("SELECT %s", ("it's",)) == b"SELECT 'it''s'"
        await cursor.execute("SELECT %s", (5,))
        assert cursor.query == b"SELECT 5"
        assert cursor.statusmessage == "SELECT 1"
        assert await cursor.mogrify("%s", (1,)) == b"1"
        assert await cursor.fetchone() == (5,)


async def test_rows_are_copied_by_psycopg2s_own_methods(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        await cursor.execute("CREATE TEMPORARY TABLE copied (id int, name text)")
        await cursor.copy_expert("COPY copied FROM STDIN", io.StringIO("1\tone\n2\ttwo\n"))
        assert cursor.rowcount == 2
        output = io.StringIO()
        await cursor.copy_expert("COPY copied TO STDOUT", output)
        assert output.getvalue() == "1\tone\n2\ttwo\n"
        await cursor.execute("SELECT * FROM copied")
        assert await cursor.fetchall() == [(1, "one"), (2, "two")]


async def test_a_refused_assignment_surfaces_and_the_cursor_stays_good(
    sqlite: Database,
) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        cursor.no_such_thing = 1
        cursor.arraysize = 5
        with pytest.raises(AttributeError, match="no_such_thing"):
            await cursor.execute("SELECT 1")
        await cursor.execute(sqlite.rows(9))
        assert cursor.arraysize == 5
        assert list(await cursor.fetchmany()) == expected(5)


async def test_the_row_factory_of_a_cursor_is_its_own(sqlite: Database) -> None:
    def reverse(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[::-1]

    async with sqlite.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        cursor.row_factory = reverse
        await cursor.execute(sqlite.rows(300))
        assert cursor.row_factory is reverse
        assert [row async for row in cursor] == [row[::-1] for row in expected(300)]
        assert await conn.fetch_all(sqlite.rows(2)) == expected(2)


# ------------------------------------------------------------------------------------------------
# Rows: the pool against the driver


@dataclass(frozen=True)
class Way:
    """A kind of cursor: how it is made, of a driver's connection or of the pool's alike."""

    driver: str
    arguments: dict[str, Any]
    row_factory: Any = None
    scrolls: bool = True

    @property
    def named(self) -> bool:
        """Whether the rows stay on the server, in one of PostgreSQL's cursors."""
        return "name" in self.arguments

    def cursor(self, connection: Any) -> Any:
        made = connection.cursor(**self.arguments)
        if self.row_factory is not None:
            made.row_factory = self.row_factory
        return made


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    names = [column[0] for column in cursor.description]
    return dict(zip(names, row, strict=True))


WAYS = {
    "sqlite3": Way("sqlite3", {}),
    "sqlite3-Row": Way("sqlite3", {}, row_factory=sqlite3.Row),
    "sqlite3-function": Way("sqlite3", {}, row_factory=as_dict),
    "psycopg2": Way("psycopg2", {}),
    "psycopg2-DictCursor": Way("psycopg2", {"cursor_factory": psycopg2.extras.DictCursor}),
    "psycopg2-RealDictCursor": Way("psycopg2", {"cursor_factory": psycopg2.extras.RealDictCursor}),
    "psycopg2-named": Way("psycopg2", {"name": "some", "scrollable": True}),
    "psycopg2-named-forward": Way("psycopg2", {"name": "some"}, scrolls=False),
    "psycopg2-named-dict": Way(
        "psycopg2",
        {"name": "some", "cursor_factory": psycopg2.extras.DictCursor},
        scrolls=False,
    ),
    "MySQLdb": Way("MySQLdb", {}),
    "MySQLdb-DictCursor": Way("MySQLdb", {"cursorclass": MySQLdb.cursors.DictCursor}),
    "MySQLdb-SSCursor": Way("MySQLdb", {"cursorclass": MySQLdb.cursors.SSCursor}),
    "MySQLdb-SSDictCursor": Way("MySQLdb", {"cursorclass": MySQLdb.cursors.SSDictCursor}),
}
MARKS = {"sqlite3": (), "psycopg2": (pytest.mark.postgres,), "MySQLdb": (pytest.mark.mariadb,)}


@pytest.fixture(
    params=[pytest.param(way, id=name, marks=MARKS[way.driver]) for name, way in WAYS.items()]
)
def way(request: pytest.FixtureRequest) -> Way:
    """Each kind of cursor in turn."""
    found: Way = request.param
    return found


@pytest.fixture
def ways_database(request: pytest.FixtureRequest, way: Way) -> Database:
    """The database of the kind of cursor."""
    name = {"sqlite3": "sqlite", "psycopg2": "postgresql", "MySQLdb": "mysql"}[way.driver]
    found: Database = request.getfixturevalue(name)
    return found


@dataclass(frozen=True)
class Pair:
    """The driver's own connection, and one of the pool."""

    raw: Any
    pooled: Connection


@pytest.fixture
async def pair(ways_database: Database) -> AsyncIterator[Pair]:
    raw = ways_database.connect()
    async with ways_database.pool() as pool, pool.connection() as conn:
        yield Pair(raw, conn)
    raw.close()


Step = tuple[Any, ...]
"""The name of a call and its arguments; `take` and a number stands for an iteration."""

COUNTS = st.sampled_from([1, 2, 10, 100, BATCH - 1, BATCH, BATCH + 1, 400, 1000])
FETCHES = st.one_of(
    st.just(("fetchone",)),
    st.just(("fetchmany",)),
    st.tuples(st.just("fetchmany"), COUNTS),
    st.tuples(st.just("take"), st.integers(1, 700)),
    st.just(("fetchall",)),
)
SCROLLS = st.one_of(
    st.tuples(st.just("scroll"), st.integers(-300, 300)),
    st.tuples(st.just("scroll"), st.integers(0, 700), st.just("absolute")),
)


async def perform(cursor: Any, step: Step) -> tuple[str, Any]:
    """Carry out a step on a cursor, of a driver or of the pool."""
    name, *args = step
    if name == "take":
        return await outcome(take, cursor, *args)
    return await outcome(getattr(cursor, name, missing), *args)


def missing(*args: Any) -> None:
    """Stands for a method that a driver's cursor does not have."""
    raise AttributeError


async def take(cursor: Any, count: int) -> list[Any]:
    """Iterate, and leave early."""
    if getattr(cursor, "itersize", None) and not isinstance(cursor, Cursor):
        # Left early, a named cursor of the driver's own loses the rest of its last FETCH.
        return list(islice(iter(cursor.fetchone, None), count))
    if not isinstance(cursor, Cursor):
        return list(islice(cursor, count))
    rows = []
    async for row in cursor:
        rows.append(row)
        if len(rows) == count:
            break
    return rows


def position(cursor: Any, way: Way) -> Any:
    """The `rownumber`, if there is one; a named cursor's counts from its last FETCH."""
    return "none" if way.named else getattr(cursor, "rownumber", "none")


async def compare(pair: Pair, way: Way, sql: str, steps: list[Step]) -> None:
    """Carry the same steps out on the driver's cursor and on the pool's."""
    plain, pooled = way.cursor(pair.raw), way.cursor(pair.pooled)
    try:
        plain.execute(sql)
        await pooled.execute(sql)
        assert position(pooled, way) == position(plain, way)
        for number, step in enumerate(steps, 1):
            seen, wanted = await perform(pooled, step), await perform(plain, step)
            assert seen == wanted, f"step {number}: {step}"
            assert position(pooled, way) == position(plain, way), f"step {number}: {step}"
            if wanted[0] == "raised" and way.named:
                break  # the transaction has failed, and the cursor with it
    finally:
        plain.close()
        await pooled.close()
        pair.raw.rollback()
        await pair.pooled.rollback()


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(count=st.sampled_from(SIZES), steps=st.lists(FETCHES, min_size=1, max_size=8))
async def test_rows_come_as_from_the_drivers_own_cursor(
    ways_database: Database, way: Way, pair: Pair, count: int, steps: list[Step]
) -> None:
    await compare(pair, way, ways_database.rows(count), steps)


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    count=st.sampled_from(SIZES),
    steps=st.lists(st.one_of(FETCHES, SCROLLS), min_size=2, max_size=8),
)
@example(count=255, steps=[("fetchmany", 100), ("scroll", -10), ("fetchone",)])
@example(count=600, steps=[("fetchmany", 300), ("scroll", 290), ("scroll", -40), ("fetchall",)])
@example(count=600, steps=[("fetchmany", 300), ("scroll", 2, "absolute"), ("fetchall",)])
async def test_scrolling_goes_where_the_drivers_own_cursor_goes(
    ways_database: Database, way: Way, pair: Pair, count: int, steps: list[Step]
) -> None:
    if not way.scrolls:
        steps = [step for step in steps if step[0] != "scroll" or way_forward(step)]
    await compare(pair, way, ways_database.rows(count), steps)


def way_forward(step: Step) -> bool:
    """Whether a scroll goes forward from anywhere."""
    return len(step) == 2 and step[1] >= 0


@pytest.mark.parametrize("count", SIZES)
async def test_every_way_to_read_gives_every_row(
    ways_database: Database, way: Way, pair: Pair, count: int
) -> None:
    sql = ways_database.rows(count)
    for step in [("fetchall",), ("take", 5000), ("fetchmany", 5000)]:
        await compare(pair, way, sql, [step, ("fetchone",), ("fetchall",), ("fetchmany", 5)])
    await compare(pair, way, sql, [("fetchone",)] * (count + 2))


async def test_a_cursor_with_hold_outlives_its_transaction(postgresql: Database) -> None:
    async with postgresql.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = conn.cursor("held", withhold=True)
            await cursor.execute(postgresql.rows(600))
            assert await cursor.fetchmany(10) == expected(10)
            await conn.commit()
            assert await cursor.fetchall() == expected(600)[10:]
        assert await pool.fetch_val("SELECT COUNT(*) FROM pg_cursors") == 0


async def test_a_half_read_result_is_no_matter_of_the_next_borrower(
    ways_database: Database, way: Way
) -> None:
    async with ways_database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = way.cursor(conn)
            await cursor.execute(ways_database.rows(1500))
            assert await cursor.fetchone() is not None
        assert await pool.fetch_all(ways_database.rows(3)) == expected(3)
        async with pool.connection() as conn:
            assert await conn.fetch_all(ways_database.rows(600)) == expected(600)


async def test_a_pool_whose_cursors_all_stream_does_everything(mysql: Database) -> None:
    mysql.change("DROP TABLE IF EXISTS streamed", "CREATE TABLE streamed (id INTEGER)")
    async with mysql.pool(max_size=1, cursorclass=MySQLdb.cursors.SSCursor) as pool:
        assert await pool.fetch_all(mysql.rows(1200)) == expected(1200)
        assert await pool.fetch_one(mysql.rows(1200)) == (1, "row 1")
        assert await pool.fetch_val(mysql.rows(1200)) == 1
        async with pool.transaction() as conn:
            await conn.execute("INSERT INTO streamed VALUES (1)")
            with pytest.raises(LookupError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO streamed VALUES (2)")
                    raise LookupError
            assert [row async for row in await conn.execute(mysql.rows(600))] == expected(600)
        assert await pool.fetch_all("SELECT id FROM streamed") == [(1,)]
        assert pool.stats().created == 1


@pytest.mark.parametrize("count", SIZES)
async def test_no_row_is_lost_when_an_iteration_is_left_early(
    database: Database, conn: Connection, count: int
) -> None:
    cursor = await conn.execute(database.rows(count))
    seen = []
    while True:
        taken = await take(cursor, 100)
        if not taken:
            break
        seen += taken
        if (row := await cursor.fetchone()) is not None:
            seen.append(row)
    assert seen == expected(count)


async def test_anext_gives_the_next_row_and_ends_the_iteration(
    database: Database, conn: Connection
) -> None:
    cursor = await conn.execute(database.rows(2))
    assert [await anext(cursor), await anext(cursor)] == expected(2)
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)
    assert await anext(cursor, "end") == "end"


async def test_two_tasks_that_read_one_cursor_get_every_row_once(
    database: Database, conn: Connection
) -> None:
    cursor = await conn.execute(database.rows(1500))

    async def read() -> list[Any]:
        rows = []
        async for row in cursor:
            rows.append(row)
            await asyncio.sleep(0)
        return rows

    both = await asyncio.gather(read(), read())
    assert sorted([row for rows in both for row in rows]) == expected(1500)


async def test_rows_that_are_none_do_not_end_an_iteration(sqlite: Database) -> None:
    def every_other(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Any:
        return None if row[0] % 2 else row

    raw = sqlite.connect()
    raw.row_factory = every_other
    wanted = list(raw.execute(sqlite.rows(600)))
    raw.close()
    async with sqlite.pool() as pool, pool.connection() as conn:
        conn.row_factory = every_other
        assert [row async for row in await conn.execute(sqlite.rows(600))] == wanted


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("count", [10, 600])
async def test_a_size_that_is_no_size_gives_no_rows_and_loses_none(
    ways_database: Database, way: Way, pair: Pair, size: int, count: int
) -> None:
    cursor = await pair.pooled.cursor(**way.arguments).execute(ways_database.rows(count))
    first = list(await cursor.fetchmany(3))
    assert list(await cursor.fetchmany(size)) == []
    assert len(first) + len(await cursor.fetchall()) == count


async def test_the_position_in_a_server_side_cursor_is_no_less_than_zero(
    postgresql: Database,
) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor("named")
        await cursor.execute(postgresql.rows(600))
        for _ in range(601):
            assert cursor.rownumber >= 0
            await cursor.fetchone()
        assert cursor.rownumber >= 0


@pytest.mark.parametrize("steps", [[("scroll", 9)], [("scroll", 9, "absolute")]])
async def test_scrolling_forward_works_where_there_is_no_way_back(
    postgresql: Database, steps: list[Step]
) -> None:
    steps = [("fetchmany", 5), *steps, ("fetchone",), ("scroll", 400), ("fetchone",)]
    raw = postgresql.connect()
    async with postgresql.pool() as pool, pool.connection() as conn:
        way = Way("psycopg2", {"name": "one_way", "scrollable": False})
        await compare(Pair(raw, conn), way, postgresql.rows(1500), steps)
    raw.close()


async def test_scrolling_that_fails_changes_nothing(database: Database, conn: Connection) -> None:
    cursor = await conn.execute(database.rows(600))
    assert list(await cursor.fetchmany(5)) == expected(5)
    for value, mode in ((-6, "relative"), (5000, "relative"), (5000, "absolute"), (0, "sideways")):
        with pytest.raises((IndexError, AttributeError, conn.Error)):
            await cursor.scroll(value, mode)
        assert await cursor.fetchone() is not None
    assert await cursor.fetchone() == (10, "row 10")


# ------------------------------------------------------------------------------------------------
# Errors in the middle of a result

FAILING = {
    "a function": "SELECT n, fail_at_300(n) FROM ({rows})",
    "an overflow": "SELECT n, CASE n WHEN 300 THEN abs(-9223372036854775808) END FROM ({rows})",
}


def fail_at_300(number: int) -> int:
    if number == 300:
        raise LookupError
    return number


@pytest.mark.parametrize("sql", FAILING.values(), ids=FAILING)
async def test_an_error_in_the_middle_of_a_result_surfaces_at_its_place(
    sqlite: Database, sql: str
) -> None:
    sql = sql.format(rows=sqlite.rows(600))
    raw = sqlite.connect()
    raw.create_function("fail_at_300", 1, fail_at_300)
    plain = raw.execute(sql)
    wanted = []
    with pytest.raises(sqlite3.Error) as plainly:
        for row in plain:
            wanted.append(row)  # noqa: PERF402 - the rows before the error count
    rest = plain.fetchone(), plain.fetchall()
    plain.close()
    raw.close()

    async with sqlite.pool() as pool, pool.connection() as conn:
        await conn.create_function("fail_at_300", 1, fail_at_300)
        iterated, fetched, chunked, whole = [await conn.cursor().execute(sql) for _ in range(4)]
        seen = []
        with pytest.raises(type(plainly.value), match=str(plainly.value)):
            async for row in iterated:
                seen.append(row)  # noqa: PERF401 - the rows before the error count
        assert seen == wanted
        assert (await iterated.fetchone(), await iterated.fetchall()) == rest

        for want in wanted:
            assert await fetched.fetchone() == want
        with pytest.raises(sqlite3.Error):
            await fetched.fetchone()

        assert await chunked.fetchmany(len(wanted)) == wanted
        with pytest.raises(sqlite3.Error):
            await chunked.fetchmany(5)

        with pytest.raises(sqlite3.Error):
            await whole.fetchall()
        assert await conn.fetch_val("SELECT 1") == 1


async def test_an_error_in_the_middle_of_a_streamed_result_surfaces_at_its_place(
    mysql: Database,
) -> None:
    sql = (
        "SELECT seq, (SELECT 1 FROM seq_1_to_2 AS two WHERE s.seq = 300 OR two.seq = 1)"
        " FROM seq_1_to_600 AS s"
    )
    raw = mysql.connect()
    plain = raw.cursor(MySQLdb.cursors.SSCursor)
    wanted = []
    with pytest.raises(MySQLdb.Error) as plainly:
        plain.execute(sql)
        while (row := plain.fetchone()) is not None:
            wanted.append(row)
    raw.close()
    async with mysql.pool() as pool, pool.connection() as conn:
        seen = []
        cursor = conn.cursor(MySQLdb.cursors.SSCursor)
        with pytest.raises(type(plainly.value)):
            await cursor.execute(sql)
            async for row in cursor:
                seen.append(row)  # noqa: PERF401 - the rows before the error count
        assert seen == wanted


# ------------------------------------------------------------------------------------------------
# Stored procedures and several results


async def test_a_procedure_with_two_results_gives_both(mysql: Database) -> None:
    mysql.change(
        "DROP PROCEDURE IF EXISTS two_results",
        f"CREATE PROCEDURE two_results(IN n INT) BEGIN {mysql.rows(300)}; SELECT n AS given; END",
    )
    steps: list[Step] = [
        ("callproc", "two_results", (5,)),
        ("fetchmany", 2),
        ("fetchall",),
        ("nextset",),
        ("fetchall",),
        ("nextset",),
        ("fetchall",),
        ("nextset",),
        ("nextset",),
        ("callproc", "two_results", (6,)),
        ("nextset",),
        ("fetchone",),
        ("fetchone",),
    ]
    for kind in (MySQLdb.cursors.Cursor, MySQLdb.cursors.SSCursor):
        raw = mysql.connect()
        plain = raw.cursor(kind)
        async with mysql.pool(max_size=1) as pool:
            async with pool.connection() as conn:
                pooled = conn.cursor(kind)
                for number, step in enumerate(steps):
                    assert await perform(pooled, step) == await perform(plain, step), number
                    assert pooled.description == plain.description, number
            assert await pool.fetch_val("SELECT 1") == 1
        raw.close()


async def test_a_result_that_was_not_read_does_not_reach_the_next_borrower(
    mysql: Database,
) -> None:
    mysql.change(
        "DROP PROCEDURE IF EXISTS two_more_results",
        f"CREATE PROCEDURE two_more_results() BEGIN {mysql.rows(2)}; SELECT 99; END",
    )
    for kind in (MySQLdb.cursors.Cursor, MySQLdb.cursors.SSCursor):
        async with mysql.pool(max_size=1) as pool:
            async with pool.connection() as conn:
                cursor = conn.cursor(kind)
                await cursor.callproc("two_more_results")
                assert await cursor.fetchone() == (1, "row 1")
            assert await pool.fetch_all("SELECT 5") == [(5,)]
            async with pool.connection() as conn:
                assert await conn.fetch_all("SELECT 6") == [(6,)]


async def test_a_function_is_called_as_a_procedure(postgresql: Database) -> None:
    postgresql.change(
        "CREATE OR REPLACE FUNCTION series(most int) RETURNS SETOF int"
        " LANGUAGE sql AS 'SELECT generate_series(1, most)'",
    )
    steps: list[Step] = [
        ("callproc", "series", [300]),
        ("fetchone",),
        ("fetchall",),
        ("callproc", "series", {"most": 2}),
        ("fetchall",),
        ("nextset",),
    ]
    raw = postgresql.connect()
    plain = raw.cursor()
    async with postgresql.pool() as pool, pool.connection() as conn:
        pooled = conn.cursor()
        for step in steps:
            assert await perform(pooled, step) == await perform(plain, step)
    raw.close()


OPTIONAL: dict[str, tuple[Any, ...]] = {"callproc": ("anything",), "nextset": (), "scroll": (1,)}
"""Methods that PEP 249 leaves to the driver, and something for them to be called with."""


@pytest.mark.parametrize("method", OPTIONAL)
async def test_a_method_that_is_optional_is_there_where_the_driver_has_it(
    database: Database, method: str
) -> None:
    raw = database.connect()
    wanted = hasattr(raw.cursor(), method)
    raw.close()
    async with database.opened() as pool, pool.connection() as conn:
        born = await conn.execute(database.select(1))
        closed = conn.cursor()
        await closed.close()
        for cursor in (conn.cursor(), born, closed):
            assert hasattr(cursor, method) is wanted
            if not wanted:
                with pytest.raises(AttributeError, match=rf"'sqlite3\.Cursor'.* '{method}'"):
                    getattr(cursor, method)
    assert inspect.iscoroutinefunction(getattr(Cursor, method))


async def test_a_method_of_a_class_by_choice_is_told_of_once_it_is_born(sqlite: Database) -> None:
    class WithProcedures(sqlite3.Cursor):
        def callproc(self, name: str) -> str:
            return name

    async with sqlite.opened() as pool, pool.connection() as conn:
        for cursor in (conn.cursor(WithProcedures), conn.cursor(factory=WithProcedures)):
            assert hasattr(cursor, "callproc")
            assert hasattr(cursor, "nextset"), "as long as nobody knows"
            assert await cursor.callproc("tidy") == "tidy"
            assert not hasattr(cursor, "nextset")


# ------------------------------------------------------------------------------------------------
# The end of a cursor


async def test_a_closed_cursor_raises_the_drivers_interface_error(
    database: Database, conn: Connection
) -> None:
    for cursor in (conn.cursor(), await conn.execute(database.rows(600))):
        await cursor.close()
        assert not cursor
        await cursor.close()
        calls: list[Callable[[], Any]] = [
            lambda: cursor.execute("SELECT 1"),  # noqa: B023 - called in this round
            lambda: cursor.executemany("SELECT 1", []),  # noqa: B023
            cursor.fetchone,
            cursor.fetchmany,
            cursor.fetchall,
            lambda: take(cursor, 1),  # noqa: B023
            *(partial(getattr(cursor, m), *OPTIONAL[m]) for m in OPTIONAL if hasattr(cursor, m)),
        ]
        for call in calls:
            with pytest.raises(database.module.InterfaceError, match="closed"):
                await call()
    assert await conn.fetch_val(database.rows(1)) == 1


async def test_a_cursor_that_nobody_holds_any_more_is_closed_in_the_database(
    postgresql: Database,
) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        async with conn.cursor("mine") as cursor:
            await cursor.execute(postgresql.rows(600))
            assert await conn.fetch_val("SELECT COUNT(*) FROM pg_cursors") == 1
        assert await conn.fetch_val("SELECT COUNT(*) FROM pg_cursors") == 0
        await conn.cursor("other").execute(postgresql.rows(600))
        assert await conn.fetch_val("SELECT COUNT(*) FROM pg_cursors") == 0


async def test_a_half_read_result_does_not_lock_the_next_borrower_out(sqlite: Database) -> None:
    sqlite.change("CREATE TABLE t (x)", f"INSERT INTO t SELECT n FROM ({sqlite.rows(600)})")
    async with sqlite.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT x FROM t")
            assert await cursor.fetchone() == (1,)
        sqlite.change("DROP TABLE t")  # locked while a statement reads
        assert await pool.fetch_val("SELECT COUNT(*) FROM sqlite_master") == 0


CURSOR_USES: dict[str, Callable[[Cursor], Any]] = {
    "execute": lambda cursor: cursor.execute("SELECT 1"),
    "executemany": lambda cursor: cursor.executemany("SELECT 1", []),
    "callproc": lambda cursor: cursor.callproc("anything"),
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchmany": lambda cursor: cursor.fetchmany(1),
    "fetchall": lambda cursor: cursor.fetchall(),
    "nextset": lambda cursor: cursor.nextset(),
    "scroll": lambda cursor: cursor.scroll(1),
    "anext": anext,
    "iteration": lambda cursor: take(cursor, 1),
    "close": lambda cursor: cursor.close(),
    "await": lambda cursor: cursor,
    "async with": lambda cursor: cursor.__aenter__(),
    "description": lambda cursor: cursor.description,
    "rowcount": lambda cursor: cursor.rowcount,
    "lastrowid": lambda cursor: cursor.lastrowid,
    "arraysize": lambda cursor: cursor.arraysize,
    "rownumber": lambda cursor: cursor.rownumber,
    "connection": lambda cursor: cursor.connection,
    "an attribute": lambda cursor: cursor.row_factory,
    "a missing attribute": lambda cursor: cursor.no_such_thing,
    "an assignment": lambda cursor: setattr(cursor, "arraysize", 5),
}


@pytest.mark.parametrize("use", CURSOR_USES.values(), ids=CURSOR_USES)
@pytest.mark.parametrize("state", ["unborn", "read ahead", "half read"])
async def test_every_use_of_a_returned_connections_cursor_fails(
    database: Database, pool: ConnectionPool, use: Callable[[Cursor], Any], state: str
) -> None:
    async with pool.connection() as conn:
        cursor = conn.cursor()
        if state != "unborn":
            await cursor.execute(database.rows(5 if state == "read ahead" else 600))
    with pytest.raises(ConnectionReturned, match=pool.name):
        found = use(cursor)
        if isinstance(found, Awaitable):
            await found
    assert not cursor
    assert "returned" in repr(cursor)
    assert pool.idle == 1


async def test_an_iteration_fails_once_its_connection_was_returned(
    database: Database, pool: ConnectionPool
) -> None:
    conn = await pool.get()
    cursor = await conn.execute(database.rows(10))
    seen = []
    with pytest.raises(ConnectionReturned):
        async for row in cursor:
            seen.append(row)
            if len(seen) == 3:
                await pool.put(conn)
    assert seen == expected(3)


# ------------------------------------------------------------------------------------------------
# Hops and memory


async def test_making_a_cursor_takes_no_hop(conn: Connection, hops: list[Job]) -> None:
    conn.cursor()
    await conn.cursor()
    async with conn.cursor():
        pass
    conn.execute("SELECT 1").close()
    assert hops == []


async def test_reading_a_small_result_takes_one_hop_altogether(
    database: Database, conn: Connection, hops: list[Job]
) -> None:
    async with conn.execute(database.rows(BATCH - 1)) as cursor:
        assert len(hops) == 1
        assert await cursor.fetchone() == (1, "row 1")
        assert list(await cursor.fetchmany(5)) == expected(6)[1:]
        assert [row async for row in cursor] == expected(BATCH - 1)[6:]
        assert await cursor.fetchone() is None
        assert list(await cursor.fetchall()) == []
        assert cursor.rowcount in (-1, BATCH - 1)
    assert len(hops) == 1


async def test_a_one_shot_takes_one_hop(
    database: Database, pool: ConnectionPool, hops: list[Job]
) -> None:
    await pool.fetch_all(database.rows(1))
    hops.clear()
    assert await pool.fetch_all(database.rows(1500)) == expected(1500)
    assert await pool.fetch_one(database.rows(1)) == (1, "row 1")
    assert await pool.fetch_val(database.rows(1)) == 1
    assert await pool.run(lambda raw: 5) == 5
    assert len(hops) == 4


async def test_ten_thousand_rows_take_a_hop_for_each_batch(
    ways_database: Database, way: Way, pair: Pair, hops: list[Job]
) -> None:
    sql = ways_database.rows(10_000)
    batches = 1 + (10_000 - BATCH) // MORE + 1
    async with way.cursor(pair.pooled) as cursor:
        await cursor.execute(sql)
        assert len([row async for row in cursor]) == 10_000
    assert batches <= len(hops) <= batches + 2

    hops.clear()
    async with way.cursor(pair.pooled) as cursor:
        await cursor.execute(sql)
        for _ in range(10_000):
            assert await cursor.fetchone() is not None
        assert await cursor.fetchone() is None
    assert batches <= len(hops) <= batches + 2

    hops.clear()
    async with way.cursor(pair.pooled) as cursor:
        await cursor.execute(sql)
        assert len(await cursor.fetchall()) == 10_000
    assert len(hops) <= 3


class Tally:
    """Rows that have left the database."""

    def __init__(self) -> None:
        self.rows = 0


def counting(kind: Any, tally: Tally) -> Any:
    """A class of cursors that counts the rows it fetches."""

    def fetchmany(cursor: Any, size: int | None = None) -> Any:
        rows = kind.fetchmany(cursor, size)
        tally.rows += len(rows)
        return rows

    def fetchone(cursor: Any) -> Any:
        row = kind.fetchone(cursor)
        tally.rows += row is not None
        return row

    return type("Counting", (kind,), {"fetchmany": fetchmany, "fetchone": fetchone})


async def check_what_is_ahead(cursor: Cursor, tally: Tally, slack: int = 0) -> None:
    """Read 5,000 rows in several ways; never may more than a batch be here unread."""
    read = 0

    def look() -> None:
        assert read <= tally.rows <= read + MORE + slack

    look()
    for _ in range(700):
        assert await cursor.fetchone() is not None
        read += 1
        look()
    for size in (1, 300, 10, 600):
        read += len(await cursor.fetchmany(size))
        look()
    async for _ in cursor:
        read += 1
        look()
    assert read == 5000


async def test_at_most_one_batch_of_a_streamed_result_is_in_memory(mysql: Database) -> None:
    tally = Tally()
    async with mysql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor(counting(MySQLdb.cursors.SSCursor, tally))
        await cursor.execute(mysql.rows(5000))
        await check_what_is_ahead(cursor, tally)


async def test_at_most_one_batch_of_a_server_side_cursor_is_in_memory(
    postgresql: Database,
) -> None:
    tally = Tally()
    async with postgresql.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor("large", cursor_factory=counting(psycopg2.extensions.cursor, tally))
        await cursor.execute(postgresql.rows(5000))
        await check_what_is_ahead(cursor, tally)


async def test_at_most_one_batch_of_a_stepped_result_is_in_memory(sqlite: Database) -> None:
    tally = Tally()

    def count(number: int) -> int:
        tally.rows += 1
        return number

    async with sqlite.pool() as pool, pool.connection() as conn:
        await conn.create_function("tally", 1, count)
        cursor = await conn.execute(f"SELECT tally(n) FROM ({sqlite.rows(5000)})")
        await check_what_is_ahead(cursor, tally, slack=1)  # the module itself steps ahead


@virtual_time
async def test_who_asks_during_a_fetch_gets_the_rows_behind_it() -> None:
    fake = Fake(rows=600)
    async with fake.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        assert len(await cursor.fetchmany(250)) == 250
        fake.fetch.once(3.0)
        first = asyncio.create_task(cursor.fetchmany(20))
        await settle()
        assert await cursor.fetchone() == (271,)
        assert [row for (row,) in await first] == [*range(251, 271)]


@virtual_time
async def test_a_fetch_that_is_cancelled_before_it_begins_takes_no_row() -> None:
    fake = Fake(rows=600)
    async with fake.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        assert len(await cursor.fetchmany(256)) == 256
        fake.fetch.once(3.0)
        first = asyncio.create_task(cursor.fetchone())
        await settle()
        second = asyncio.create_task(cursor.fetchone())
        await settle()
        second.cancel()
        assert await first == (257,)
        assert await cursor.fetchone() == (258,)
