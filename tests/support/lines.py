"""Functions that run statements with a driver's own connection, and what others see of it."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from asyncdbpool import Connection
from support.databases import Database, insert

__all__ = ["begun", "insert", "on_a_cursor", "on_a_thread", "on_the_connection", "written"]


def on_a_thread(*statements: str, commit: bool = False) -> Callable[[Any], Any]:
    """Make a function that runs statements with a blocking driver's own connection."""

    def say(raw: Any) -> None:
        with closing(raw.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
                if cursor.description:  # some databases do nothing until somebody fetches
                    cursor.fetchall()
        if commit:
            raw.commit()

    return say


def on_a_cursor(*statements: str, commit: bool = False) -> Callable[[Any], Any]:
    """Make one that does so with aiomysql's connection."""

    async def say(raw: Any) -> None:
        async with raw.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
        if commit:
            await raw.commit()

    return say


def on_the_connection(*statements: str, commit: bool = False) -> Callable[[Any], Any]:
    """Make one that does so with asyncpg's connection: without a cursor, and each committed."""

    async def say(raw: Any) -> None:
        for statement in statements:
            await raw.execute(statement)

    return say


async def begun(database: Database, conn: Connection) -> None:
    """Open a transaction by a statement, where the database does not do so by itself."""
    if database.begin is not None:
        await conn.execute(database.begin)


def written(database: Database) -> list[int]:
    """The ids in that table, as others than the pool see it."""
    with closing(database.connect()) as raw, closing(raw.cursor()) as cursor:
        cursor.execute("SELECT id FROM wares ORDER BY id")
        return [row[0] for row in cursor.fetchall()]
