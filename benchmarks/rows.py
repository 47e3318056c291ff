"""The rows: who competes at what, and what is claimed of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import on_mariadb, on_postgres, on_sqlite, on_the_pool
from benchmarks.contest import Contestant
from benchmarks.judging import (
    KIBIBYTES,
    MICROSECONDS,
    MILLISECONDS,
    OURS,
    PER_SECOND,
    Claim,
    Unit,
)

THREADS = "bare threads"


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        title: What is done.
        chart: What the chart shows, as a sentence.
        unit: What the figures are shown in.
        contestants: By the names that tables and charts show; ours begin with the library's.
        claims: What has to come out.
        tasks: How many share the work.
        why: The reason, where a claim is not kept.
        operations: In a lap; None: as many as fill the time.
        short: Whether the short run has it, with those that its floors are about.
    """

    title: str
    chart: str
    unit: Unit
    contestants: Mapping[str, Contestant]
    claims: Sequence[Claim] = ()
    why: str = ""
    tasks: int = 1
    operations: int | None = None
    short: bool = False


def floor(subject: str, against: str, at_least: float, loop: str | None = None) -> Claim:
    """Claim to be nearly as fast as what no pool can beat by much."""
    return Claim(subject, against, at_least=at_least, loop=loop, floor=True)


ROWS = {
    "checkout": Row(
        title="check-out and return, nobody waiting",
        chart="To borrow a connection and return it, nobody waiting: microseconds, less is better",
        unit=MICROSECONDS,
        contestants={
            f"{OURS}, psycopg2: get, put": on_postgres.get_and_put,
            f"{OURS}, psycopg2: connection()": on_postgres.connection_block,
            f"{OURS}, MySQLdb: get, put": on_mariadb.get_and_put,
            f"{OURS}, sqlite3: get, put": on_sqlite.get_and_put,
            "psycopg_pool: getconn, putconn": on_postgres.psycopg_pool_getconn,
            "psycopg_pool: connection()": on_postgres.psycopg_pool_block,
            "aiomysql.Pool": on_mariadb.aiomysql_acquire,
            "asyncpg.Pool": on_postgres.asyncpg_acquire,
            "asyncpg.Pool without reset": on_postgres.asyncpg_acquire_without_reset,
            "aiosqlitepool": on_sqlite.aiosqlitepool_block,
        },
        claims=[
            Claim(f"{OURS}, psycopg2: get, put", "psycopg_pool: getconn, putconn", at_least=4),
            Claim(f"{OURS}, psycopg2: connection()", "psycopg_pool: connection()", at_least=4),
            Claim(f"{OURS}, MySQLdb: get, put", "aiomysql.Pool", at_least=4),
            Claim(f"{OURS}, psycopg2: get, put", at_most=4),
            Claim(f"{OURS}, psycopg2: connection()", at_most=4),
        ],
        why=(
            "psycopg_pool's getconn and putconn are a few us here, so that four times as fast "
            "would be about one. A loan is some 70 calls of Python: the limit, a look at the "
            "socket, a proxy that can be revoked, who has it and where it was taken, and the "
            "return with its proof that nothing was left behind."
        ),
    ),
    "one-shots-psycopg2": Row(
        title="one-shots, psycopg2 autocommit `SELECT 1`, 50 tasks on 10 connections",
        chart="SELECT 1 through psycopg2, 50 tasks on 10 connections: statements a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, psycopg2": on_postgres.one_shots,
            THREADS: on_postgres.bare_threads,
            "psycopg_pool": on_postgres.psycopg_pool_statements,
            "asyncpg.Pool": on_postgres.asyncpg_statements,
            "SQLAlchemy, asyncpg": on_postgres.sqlalchemy_statements,
            "to_thread, psycopg2's pool": on_postgres.to_thread_with_psycopg2_pool,
            "to_thread, DBUtils": on_postgres.to_thread_with_dbutils,
        },
        claims=[
            floor(f"{OURS}, psycopg2", THREADS, 0.9),
            Claim(f"{OURS}, psycopg2", "psycopg_pool", at_least=3),
            Claim(f"{OURS}, psycopg2", "asyncpg.Pool", at_least=5),
        ],
        why=(
            "No pool can be much faster than bare threads, which are themselves three to five "
            "times as fast as psycopg_pool and less than four times as fast as asyncpg.Pool "
            "here. What is lost to them is the hand-over of the GIL: 1.4 to 1.7 context switches "
            "a statement, and 1.0 with bare threads."
        ),
        tasks=50,
        short=True,
    ),
    "leases-psycopg2": Row(
        title="leases for the same work",
        chart="SELECT 1 on borrowed connections, 50 tasks on 10 connections: statements a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, psycopg2": on_postgres.leases,
            THREADS: on_postgres.bare_threads,
            "psycopg_pool": on_postgres.psycopg_pool_statements,
        },
        claims=[
            floor(f"{OURS}, psycopg2", THREADS, 0.5, loop="asyncio"),
            floor(f"{OURS}, psycopg2", THREADS, 0.75, loop="uvloop"),
            Claim(f"{OURS}, psycopg2", "psycopg_pool", at_least=1.4),
        ],
        why=(
            "The block's body runs on the event loop, so each lease is a trip to the thread and "
            "back: 3.3 context switches, and 1.0 with bare threads. A thread that is woken while "
            "the loop computes takes the core only to wait for the GIL. The loop's own part is "
            "about 25 us, where a bare thread needs 19 altogether."
        ),
        tasks=50,
    ),
    "one-shots-mysqldb": Row(
        title="one-shots, MySQLdb on MariaDB, 50 tasks on 10 connections",
        chart="SELECT 1 through MySQLdb, 50 tasks on 10 connections: statements a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, MySQLdb": on_mariadb.one_shots,
            THREADS: on_mariadb.bare_threads,
            "aiomysql.Pool": on_mariadb.aiomysql_statements,
        },
        claims=[
            floor(f"{OURS}, MySQLdb", THREADS, 0.9),
            Claim(f"{OURS}, MySQLdb", "aiomysql.Pool", at_least=1.5),
        ],
        why=(
            "The driver is quicker than psycopg2, so the event loop's share of each statement "
            "(the caller's task, the wake-up of the loop, the GIL) weighs more: 35 us of "
            "processor time beside the 19 of bare threads."
        ),
        tasks=50,
    ),
    "asyncpg": Row(
        title="asyncpg in this pool, `SELECT 1`, 50 tasks on 10 connections",
        chart="SELECT 1 through asyncpg, 50 tasks on 10 connections: statements a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, asyncpg": on_postgres.asyncpg_in_ours,
            "bare asyncpg": on_postgres.bare_asyncpg,
            "asyncpg.Pool without reset": on_postgres.asyncpg_statements_without_reset,
            "asyncpg.Pool": on_postgres.asyncpg_statements,
        },
        claims=[
            floor(f"{OURS}, asyncpg", "bare asyncpg", 0.9),
            Claim(f"{OURS}, asyncpg", "asyncpg.Pool", at_least=4),
            Claim(f"{OURS}, asyncpg", "asyncpg.Pool without reset", at_least=1),
        ],
        why=(
            "Bare asyncpg itself is not four times as fast as asyncpg.Pool. A statement runs in a "
            "task of the pool's own, so that no cancellation of its caller reaches the driver; "
            "that, its future and what is looked at in between cost about 14 us beside the "
            "driver's 39."
        ),
        tasks=50,
        short=True,
    ),
    "aiomysql": Row(
        title="aiomysql in this pool, `SELECT 1`, 50 tasks on 10 connections",
        chart="SELECT 1 through aiomysql, 50 tasks on 10 connections: statements a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, aiomysql": on_mariadb.aiomysql_in_ours,
            "aiomysql.Pool": on_mariadb.aiomysql_statements,
        },
        claims=[Claim(f"{OURS}, aiomysql", "aiomysql.Pool", at_least=1.1)],
        why=(
            "Nearly two thirds of the time are the driver's own, with either pool; a task of the "
            "pool's own for each statement costs a little more than aiomysql.Pool's lock."
        ),
        tasks=50,
    ),
    **{
        key: Row(
            title=f"SQLite point query in a lease, {how}",
            chart=f"A row of SQLite by its key, {how}: queries a second",
            unit=PER_SECOND,
            contestants={
                f"{OURS}: connection()": on_sqlite.leases,
                f"{OURS}: fetch_all()": on_sqlite.one_shots,
                "sqlite3, blocking": on_sqlite.blocking_queries,
                "aiosqlite": on_sqlite.aiosqlite_queries,
                "aiosqlite, execute_fetchall()": on_sqlite.aiosqlite_shortcut,
                **({"aiosqlite, borrowed": on_sqlite.aiosqlite_borrowed} if tasks > 1 else {}),
                "aiosqlitepool": on_sqlite.aiosqlitepool_queries,
                "aioodbc": on_sqlite.aioodbc_queries,
            },
            claims=[
                Claim(f"{OURS}: connection()", "aiosqlite", at_least=3),
                Claim(f"{OURS}: connection()", "aiosqlitepool", at_least=8),
            ],
            why=why,
            tasks=tasks,
        )
        for key, how, tasks, why in [
            (
                "sqlite-1",
                "one task",
                1,
                "The query takes 1.3 us; a trip to a thread and back, with nothing to do there, "
                "32 us and three context switches on one core. aiosqlite's three trips take 77 "
                "us, so that one trip cannot be three times as fast.",
            ),
            (
                "sqlite-50",
                "50 tasks on 10 connections",
                50,
                "All tasks of aiosqlite share one connection, whose thread finds the next query "
                "waiting and is never woken; no task has it to itself. Ten borrowed connections "
                "are ten threads that wait for the GIL.",
            ),
        ]
    },
    "sqlite-rows": Row(
        title="SQLite, 100,000 rows with `async for`",
        chart="100,000 rows of SQLite with async for: rows a second",
        unit=PER_SECOND,
        contestants={
            OURS: on_sqlite.iterated_rows,
            "sqlite3, blocking": on_sqlite.blocking_rows,
            "aiosqlite": on_sqlite.aiosqlite_rows,
        },
        claims=[
            floor(OURS, "sqlite3, blocking", 0.85),
            Claim(OURS, "aiosqlite", at_least=1),
        ],
        why=(
            "A row takes SQLite 320 ns in a blocking loop. `async for` over an asynchronous "
            "generator that does nothing takes 100 ns of each, and the proof that the connection "
            "is still lent and the position is right 40 more. aiosqlite looks at neither."
        ),
        short=True,
    ),
    "sqlite-fetchone": Row(
        title="SQLite, `fetchone` in a loop, 20,000 rows",
        chart="20,000 rows of SQLite with fetchone(): rows a second",
        unit=PER_SECOND,
        contestants={
            OURS: on_sqlite.rows_one_by_one,
            "sqlite3, blocking": on_sqlite.blocking_rows_one_by_one,
            "aiosqlite": on_sqlite.aiosqlite_rows_one_by_one,
        },
        claims=[Claim(OURS, "aiosqlite", at_least=20)],
    ),
    "psycopg2-rows": Row(
        title="psycopg2, 100,000 rows from a named cursor",
        chart="100,000 rows from a named cursor of PostgreSQL: rows a second",
        unit=PER_SECOND,
        contestants={
            f"{OURS}, psycopg2: async for": on_postgres.iterated_rows,
            f"{OURS}, psycopg2: fetchmany": on_postgres.rows_in_batches,
            "psycopg2, blocking": on_postgres.blocking_batches,
            "psycopg_pool: async for": on_postgres.psycopg_pool_rows,
            "asyncpg.Pool: async for": on_postgres.asyncpg_rows,
        },
        claims=[
            floor(f"{OURS}, psycopg2: async for", "psycopg2, blocking", 0.9),
            floor(f"{OURS}, psycopg2: fetchmany", "psycopg2, blocking", 0.9),
        ],
        why=(
            "As above: `async for` has a price of 140 ns a row, which is more than the driver "
            "takes for one; `fetchmany()` pays for its trips alone."
        ),
    ),
    "waiting": Row(
        title="10,000 tasks waiting on 10 connections, making the tasks included",
        chart="The cost of an operation where many tasks wait: microseconds, less is better",
        unit=MICROSECONDS,
        contestants={
            f"{OURS}, 100 tasks": on_the_pool.with_tasks(on_the_pool.waiting, 100),
            f"{OURS}, 10,000 tasks": on_the_pool.with_tasks(on_the_pool.waiting, 10_000),
        },
        claims=[Claim(f"{OURS}, 10,000 tasks", f"{OURS}, 100 tasks", at_most=1.3)],
        operations=10_000,
    ),
    "cancelling": Row(
        title="cancelling all of 10,000 waiting tasks",
        chart="The cost of a cancelled waiter where many wait: microseconds, less is better",
        unit=MICROSECONDS,
        contestants={
            f"{OURS}, 1,000 tasks": on_the_pool.with_tasks(on_the_pool.cancelling, 1_000),
            f"{OURS}, 10,000 tasks": on_the_pool.with_tasks(on_the_pool.cancelling, 10_000),
        },
        claims=[Claim(f"{OURS}, 10,000 tasks", f"{OURS}, 1,000 tasks", at_most=1.5)],
        why=(
            "asyncio's own part grows as much: a cancelled task that waits for a bare future "
            "costs 1.3 times (uvloop: 1.5 times) as much among 10,000 as among 1,000."
        ),
        operations=10_000,
    ),
    "first-gets": Row(
        title="10 first `get()`s where a connect takes 200 ms",
        chart="Ten first get()s where a connect takes 200 ms: milliseconds, less is better",
        unit=MILLISECONDS,
        contestants={OURS: on_the_pool.first_gets},
        claims=[Claim(OURS, at_most=260)],
        operations=1,
    ),
    "memory": Row(
        title="memory of an idle connection beyond the driver's own, and of a waiter",
        chart="Memory of an idle connection, beyond the driver's own, and of a waiter: KiB",
        unit=KIBIBYTES,
        contestants={
            f"{OURS}: idle, sqlite3": on_the_pool.idle_sqlite3,
            f"{OURS}: idle, psycopg2": on_the_pool.idle_psycopg2,
            f"{OURS}: waiter": on_the_pool.waiter,
        },
        operations=1,
    ),
    "stalls": Row(
        title="loop stall, 99th percentile, while 50 tasks fetch 20,000 rows each",
        chart="Delay of the event loop (p99) while 50 tasks fetch 20,000 rows each: milliseconds",
        unit=MILLISECONDS,
        contestants={
            f"{OURS}, psycopg2": on_postgres.large_results,
            "psycopg_pool": on_postgres.psycopg_pool_large_results,
            "asyncpg.Pool": on_postgres.asyncpg_large_results,
        },
        claims=[
            Claim(f"{OURS}, psycopg2", "asyncpg.Pool", at_most=1),
            Claim(f"{OURS}, psycopg2", "psycopg_pool", at_most=1),
        ],
        why=(
            "Rows are made on a thread with which the loop shares the GIL; psycopg's are made by "
            "the loop's thread itself."
        ),
        tasks=50,
        operations=1,
    ),
}
