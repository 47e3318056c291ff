"""What users write, for the type checkers: it is checked and never run."""

from __future__ import annotations

import sqlite3
from typing import Any, assert_type

import aiomysql
import asyncpg

from asyncdbpool import (
    Connection,
    ConnectionPool,
    Cursor,
    DatabaseConnector,
    LeaseInfo,
    NativeConnection,
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


async def a_native_setup(raw: asyncpg.Connection) -> None:
    await raw.execute("SET timezone = 'UTC'")


async def a_native_check(raw: asyncpg.Connection) -> bool:
    return bool(await raw.fetchval("SELECT true"))


async def count_users(raw: asyncpg.Connection, age: int) -> object:
    return await raw.fetchval("SELECT count(*) FROM users WHERE age > $1", age)


async def a_listener(conn: Any, _pid: int, channel: str, payload: object) -> None:
    await conn.execute("INSERT INTO news VALUES ($1, $2)", channel, payload)


async def with_asyncpg(dsn: str) -> None:
    pool = ConnectionPool(
        asyncpg, dsn, setup=a_native_setup, check=a_native_check, cleanup=a_native_setup
    )
    assert_type(await pool.fetch_all("SELECT * FROM t WHERE a = $1", (1,)), list[Any])
    assert_type(await pool.execute("DELETE FROM t"), int)
    assert_type(await pool.run(count_users, 18), Any)
    async with pool.connection() as conn:
        assert_type(conn, Connection)
        assert_type(await conn.fetch("SELECT * FROM t WHERE a = $1", 1), Any)
        assert_type(await conn.fetchrow("SELECT 1"), Any)
        assert_type(await conn.fetch_all("SELECT * FROM t WHERE a = $1", (1,)), list[Any])
        assert_type(await conn.run(count_users, age=18), Any)
        await conn.execute("INSERT INTO t VALUES ($1)", 1)
        await conn.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
        await conn.add_listener("news", a_listener)
        assert isinstance(conn, NativeConnection)
        assert_type(await with_what_is_asyncpgs_own(conn), str)
        statement = await conn.prepare("SELECT $1::int")
        assert_type(await statement.fetchval(1), Any)
        async with conn.transaction(isolation="serializable", readonly=True) as transaction:
            assert_type(transaction, Transaction)
            async for record in conn.cursor("SELECT * FROM t WHERE a = $1", 1):
                assert_type(record, Any)
            await (await conn.cursor("SELECT 1")).fetchrow()


async def with_what_is_asyncpgs_own(conn: NativeConnection) -> str:
    status: str = await conn.execute("DELETE FROM t WHERE a = $1", 1)
    return status


async def a_mysql_setup(raw: aiomysql.Connection) -> None:
    async with raw.cursor() as cur:
        await cur.execute("SET time_zone = '+00:00'")


async def with_aiomysql() -> None:
    pool = ConnectionPool(aiomysql, host="localhost", user="app", setup=a_mysql_setup)
    async with pool.connection(cleanup=a_mysql_setup) as conn:
        async with conn.cursor() as cur:
            await cur.execute("SELECT * FROM t WHERE a = %s", (1,))
            assert_type(await cur.fetchone(), Any)
            async for row in cur:
                assert_type(row, Any)
        async with conn.cursor(aiomysql.SSCursor) as cur:
            await cur.execute("SELECT * FROM t")
            assert_type(await cur.fetchmany(10), Any)
        cur = await conn.cursor(aiomysql.DictCursor)
        await cur.execute("SELECT 1")
        await conn.select_db("other")
        await conn.commit()


async def connectors() -> None:
    connector = DatabaseConnector(
        sqlite3, {"a": {"timeout": 1.0}, "default": more_credentials}, max_per_host=2
    )
    assert_type(connector.get("a", "a.db"), ConnectionPool)
    async with connector, connector.connection("a", "a.db") as conn:
        assert_type(conn, Connection)
    native = DatabaseConnector(asyncpg, {"default": more_credentials}, setup=a_native_setup)
    assert_type(native.get("a", "shop"), ConnectionPool)
    assert_type("a" in connector, bool)
    assert_type(("a", "a.db") in connector, bool)
    for key, pool in connector.items():
        assert_type(key, tuple[str, str | None])
        assert_type(pool, ConnectionPool)
