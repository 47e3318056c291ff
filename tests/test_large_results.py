"""Large results: where to fetch only computes, one thread at a time does so."""

import sqlite3
from collections.abc import Awaitable, Callable, MutableSequence
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg2
import pytest

from asyncdbpool import ConnectionPool, _queries
from asyncdbpool.drivers.psycopg import PsycopgDriver
from asyncdbpool.drivers.psycopg2 import Psycopg2Driver
from asyncdbpool.drivers.sqlite3 import SQLite3Driver

ROWS = 3 * _queries.CHUNK + 1
UP_TO = (
    "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n LIMIT {}) SELECT * FROM n"
)

Fetch = Callable[[ConnectionPool, str], Awaitable[list[Any]]]


class Holding(SQLite3Driver):
    """Says that all rows are in memory; may fail in the middle of them."""

    broken = False

    def holds_rows(self, cursor: Any) -> bool:
        return True

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        if self.broken and into:
            raise sqlite3.OperationalError("in the middle")
        return super().fetch(cursor, count, into)


class Turnstile:
    """Stands for the lock, and notes who takes it."""

    def __init__(self, *, free: bool) -> None:
        self.free = free
        self.notes: list[str] = []

    def acquire(self, *, timeout: float) -> bool:
        self.notes.append("taken" if self.free else f"not free within {timeout:g} s")
        return self.free

    def release(self) -> None:
        self.notes.append("given back")


async def in_one_hop(pool: ConnectionPool, sql: str) -> list[Any]:
    return await pool.fetch_all(sql)


async def by_a_cursor(pool: ConnectionPool, sql: str) -> list[Any]:
    async with pool.connection() as conn, conn.execute(sql) as cursor:
        rows: list[Any] = await cursor.fetchall()
        return rows


in_both_ways = pytest.mark.parametrize("fetch", [in_one_hop, by_a_cursor])


@pytest.fixture
def turnstile(monkeypatch: pytest.MonkeyPatch) -> Turnstile:
    turnstile = Turnstile(free=True)
    monkeypatch.setattr(_queries, "_fetching", turnstile)
    return turnstile


@in_both_ways
async def test_a_large_result_is_fetched_alone(fetch: Fetch, turnstile: Turnstile) -> None:
    async with ConnectionPool(sqlite3, ":memory:", driver=Holding(sqlite3)) as pool:
        assert len(await fetch(pool, UP_TO.format(ROWS))) == ROWS
    assert turnstile.notes == ["taken", "given back"]


@in_both_ways
async def test_a_small_result_waits_for_nobody(fetch: Fetch, turnstile: Turnstile) -> None:
    async with ConnectionPool(sqlite3, ":memory:", driver=Holding(sqlite3)) as pool:
        assert await fetch(pool, UP_TO.format(2)) == [(1,), (2,)]
    assert turnstile.notes == []


@in_both_ways
async def test_where_to_fetch_is_to_wait_nobody_waits_for_anybody(
    fetch: Fetch, turnstile: Turnstile
) -> None:
    async with ConnectionPool(sqlite3, ":memory:") as pool:
        assert len(await fetch(pool, UP_TO.format(ROWS))) == ROWS
    assert turnstile.notes == []


@in_both_ways
async def test_a_result_that_breaks_off_holds_nobody_up(
    fetch: Fetch, turnstile: Turnstile
) -> None:
    driver = Holding(sqlite3)
    async with ConnectionPool(sqlite3, ":memory:", driver=driver) as pool:
        driver.broken = True
        with pytest.raises(sqlite3.OperationalError, match="in the middle"):
            await fetch(pool, UP_TO.format(ROWS))
    assert turnstile.notes == ["taken", "given back"]


@in_both_ways
async def test_a_lock_that_nobody_gives_back_is_waited_for_in_vain_and_not_for_ever(
    fetch: Fetch, turnstile: Turnstile
) -> None:
    turnstile.free = False
    async with ConnectionPool(sqlite3, ":memory:", driver=Holding(sqlite3)) as pool:
        assert len(await fetch(pool, UP_TO.format(ROWS))) == ROWS
    assert turnstile.notes == ["not free within 0.1 s"]


@pytest.mark.parametrize(
    ("driver", "ordinary"),
    [
        (Psycopg2Driver(psycopg2), SimpleNamespace(name=None)),
        (PsycopgDriver(psycopg), SimpleNamespace()),
    ],
    ids=["psycopg2", "psycopg"],
)
def test_libpq_holds_all_rows_but_those_of_a_named_cursor(
    driver: Psycopg2Driver | PsycopgDriver, ordinary: object
) -> None:
    assert driver.holds_rows(ordinary)
    assert not driver.holds_rows(SimpleNamespace(name="many"))
