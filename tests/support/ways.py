"""Ways to run a statement that differ from driver to driver: on cursors, and in functions."""

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import aiomysql
import asyncmy
import asyncpg
import psycopg

__all__ = ["in_a_function", "iterated", "on_a_cursor"]


def on_a_cursor(module: Any) -> Callable[[Any, str], Awaitable[Any]]:
    """Return what gives a statement's first row, by a cursor of a borrowed connection."""
    return _on_asyncpg_s_cursors if module is asyncpg else _on_a_cursor


def iterated(module: ModuleType) -> Callable[[Any, str], Awaitable[list[Any]]]:
    """Return what gives a statement's rows one by one, by an iteration over a cursor."""
    return _iterated_by_asyncpg if module is asyncpg else _iterated


def in_a_function(module: Any) -> Callable[[Any, str], Any]:
    """Return what `run()` takes and gives the same, on a cursor of the driver's connection."""
    functions: dict[Any, Callable[[Any, str], Any]] = {
        asyncpg: _on_asyncpg_s_cursors,
        aiomysql: _on_a_cursor,
        asyncmy: _on_a_cursor,
        psycopg.AsyncConnection: _on_a_cursor,
    }
    return functions.get(module, _on_a_blocking_cursor)


async def _on_a_cursor(conn: Any, sql: str) -> Any:
    async with conn.cursor() as cursor:
        await cursor.execute(sql)
        return await cursor.fetchone()


async def _on_asyncpg_s_cursors(conn: Any, sql: str) -> Any:
    """They live in a transaction, and can be made from a prepared statement, too."""
    async with conn.transaction():
        statement = await conn.prepare(sql)
        for cursor in (await conn.cursor(sql), await statement.cursor()):
            row = await cursor.fetchrow()
        return row


async def _iterated(conn: Any, sql: str) -> list[Any]:
    return [row async for row in await conn.execute(sql)]


async def _iterated_by_asyncpg(conn: Any, sql: str) -> list[Any]:
    async with conn.transaction():
        return [row async for row in conn.cursor(sql, prefetch=3)]


def _on_a_blocking_cursor(raw: Any, sql: str) -> Any:
    cursor = raw.cursor()
    try:
        cursor.execute(sql)
        return cursor.fetchone()
    finally:
        cursor.close()
