"""What can set one driver apart from the others, where a test is the same for all of them."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from support.databases import Database

__all__ = ["Line", "insert", "on_a_cursor", "on_a_thread", "on_the_connection", "written"]


def on_a_thread(*statements: str) -> Callable[[Any], Any]:
    """Make a function that runs statements with a blocking driver's own connection."""

    def say(raw: Any) -> None:
        with closing(raw.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)

    return say


def on_a_cursor(*statements: str) -> Callable[[Any], Any]:
    """Make one that does so with aiomysql's connection."""

    async def say(raw: Any) -> None:
        async with raw.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)

    return say


def on_the_connection(*statements: str) -> Callable[[Any], Any]:
    """Make one that does so with asyncpg's connection, which needs no cursor."""

    async def say(raw: Any) -> None:
        for statement in statements:
            await raw.execute(statement)

    return say


@dataclass(frozen=True)
class Line:
    """What sets a driver apart.

    Attributes:
        setting: A statement that changes the session, and one that shows it.
        named: What stands for the parameter `:name`, as the second argument of `re.sub`.
        by_name: Pool options with which rows have names.
        many: What `execute_many` returns for three rows.
        guest: A method of a connection that makes something to fetch from, and the one to fetch.
        saying: Makes a function that runs statements with the driver's own connection.
        names: Whether rows can be made to have names.
        savepoints: Whether the database has them.
        mappings: Whether parameters may have names.
    """

    setting: tuple[str, str]
    named: str = r"%(\1)s"
    by_name: Mapping[str, Any] = field(default_factory=dict)
    many: int = 3
    guest: tuple[str, str] = "execute", "fetchone"
    saying: Callable[..., Callable[[Any], Any]] = on_a_thread
    names: bool = True
    savepoints: bool = True
    mappings: bool = True


def insert(*ids: int) -> str:
    """Return a statement for rows of the table `wares`."""
    return "INSERT INTO wares VALUES " + ", ".join(f"({n}, 'item {n}')" for n in ids)


def written(database: Database) -> list[int]:
    """The ids in that table, as others than the pool see it."""
    with closing(database.connect()) as raw, closing(raw.cursor()) as cursor:
        cursor.execute("SELECT id FROM wares ORDER BY id")
        return [row[0] for row in cursor.fetchall()]
