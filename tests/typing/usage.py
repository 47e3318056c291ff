"""What users write, for the type checkers: it is checked and never run."""

from __future__ import annotations

import sqlite3
from typing import Any, assert_type

from asyncdbpool import (
    Connection,
    ConnectionPool,
    Cursor,
    DatabaseConnector,
    LeaseInfo,
    PoolStats,
    Transaction,
)


async def by_hand(pool: ConnectionPool) -> None:
    conn = await pool.get(timeout=1.5)
    assert_type(conn, Connection)
    cursor = await conn.execute("SELECT ?", (1,))
    assert_type(cursor, Cursor)
    await pool.put(conn, cleanup="reset")


async def as_context_managers(pool: ConnectionPool) -> None:
    async with pool.connection(timeout=None, cleanup=None) as conn:
        assert_type(conn, Connection)
        async with conn.transaction() as transaction:
            assert_type(transaction, Transaction)
        async with conn.cursor() as cursor:
            assert_type(cursor, Cursor)
        async with conn.execute("SELECT 1") as cursor:
            assert_type(cursor, Cursor)
            async for row in cursor:
                assert_type(row, Any)
        conn.row_factory = sqlite3.Row
    async with pool.transaction() as conn:
        assert_type(conn, Connection)


async def in_one_shot(pool: ConnectionPool) -> None:
    assert_type(await pool.execute("DELETE FROM t"), int)
    assert_type(await pool.execute_many("INSERT INTO t VALUES (?)", [(1,), (2,)]), int)
    rows = await pool.fetch_all("SELECT * FROM t WHERE a = :a", {"a": 1})
    assert_type(rows, list[Any])


def a_setup(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA foreign_keys = ON")


def some_credentials() -> dict[str, str]:
    return {"user": "app"}


async def more_credentials() -> dict[str, str]:
    return {"user": "app"}


async def pools() -> None:
    async with ConnectionPool(sqlite3, "a.db", setup=a_setup, max_uses=None) as pool:
        assert_type(pool, ConnectionPool)
        assert_type(pool.stats(), PoolStats)
        assert_type(pool.dump(), list[LeaseInfo])
    ConnectionPool(sqlite3, "a.db", credentials=some_credentials, check="always", cleanup="reset")
    ConnectionPool(sqlite3, "a.db", credentials=more_credentials, check=None, cleanup=a_setup)


async def connectors() -> None:
    connector = DatabaseConnector(
        sqlite3, {"a": {"timeout": 1.0}, "default": more_credentials}, max_per_host=2
    )
    assert_type(connector.get("a", "a.db"), ConnectionPool)
    async with connector, connector.connection("a", "a.db") as conn:
        assert_type(conn, Connection)
    assert_type("a" in connector, bool)
    assert_type(("a", "a.db") in connector, bool)
    for key, pool in connector.items():
        assert_type(key, tuple[str, str | None])
        assert_type(pool, ConnectionPool)
