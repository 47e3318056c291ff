"""Every driver that the conformance suite runs with: one file each, with what sets it apart."""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from support.access import kill
from support.activity import Activity, observed
from support.databases import Database, mariadb_on, postgres_on, sqlite_at
from support.lines import on_a_thread
from support.servers import SERVERS, Server

__all__ = ["MARIADB", "POSTGRES", "SQLITE", "Kind", "Subject", "by_a_method", "subjects"]

Watch = Callable[[Database], Activity]

_SERVERS = frozenset(server.title for server in SERVERS)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is the same for every driver of one database.

    Attributes:
        title: Its name.
        place: The fixture that tells where it is: a server, or a folder.
        describe: Makes of that the database with the driver by which the tests look at it.
        setting: A statement that changes the session, and one that shows it.
        backend: What gives the number by which the server knows a connection.
        kill: Ends a connection by that number.
        options: What an option file says, made of the keywords; libpq finds it by `PGSERVICEFILE`.
        locally: A query that gives 1 where the connection is by the server's Unix socket, else 0.
    """

    title: str
    place: str
    describe: Callable[[Any], Database]
    setting: tuple[str, str]
    backend: str | None = None
    kill: Callable[[Any, int], None] = kill
    options: Callable[[Mapping[str, Any]], str] | None = None
    locally: str | None = None


def _options(section: str, login: Mapping[str, Any], database: str = "database") -> str:
    """Return an option file, as the clients of PostgreSQL and of MariaDB read it."""
    words = {key: login[key] for key in ("host", "port", "user", "password")}
    lines = [f"{key}={value}" for key, value in {**words, database: login["database"]}.items()]
    return "\n".join([f"[{section}]", *lines, ""])


SQLITE = Kind(
    title="SQLite",
    place="tmp_path",
    describe=sqlite_at,
    setting=("PRAGMA cache_size = 1234", "PRAGMA cache_size"),
)
POSTGRES = Kind(
    title="PostgreSQL",
    place="postgres",
    describe=postgres_on,
    setting=("SET work_mem = 1234", "SHOW work_mem"),
    backend="pg_backend_pid()",
    options=lambda login: _options("shop", login, database="dbname"),
    locally="SELECT CASE WHEN inet_server_addr() IS NULL THEN 1 ELSE 0 END",
)
MARIADB = Kind(
    title="MariaDB",
    place="mariadb",
    describe=mariadb_on,
    setting=("SET @left = 1234", "SELECT @left"),
    backend="CONNECTION_ID()",
    options=lambda login: _options("client", login),
    locally=(
        "SELECT host = 'localhost' FROM information_schema.processlist WHERE id = CONNECTION_ID()"
    ),
)


async def by_an_attribute(conn: Any) -> None:
    conn.autocommit = True


async def by_a_method(conn: Any) -> None:
    await conn.autocommit(True)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A driver, and what sets it apart from the others.

    Attributes:
        name: What tests and tables call it.
        package: The distribution that brings it; the standard library where there is none.
        like: The database that it is for.
        module: What a pool is made with.
        arguments: Makes its connect keywords of those of the database's own description.
        own: The same, as the module itself takes them, where the library takes others.
        ways: The same, for every other way to connect that it offers: positional arguments
            and keywords.
        by_socket: The same, by the server's Unix socket: keywords.
        by_file: The same, by an option file with the rest: keywords.
        changes: What else is not as in the database's description: the placeholder, say.
        named: What stands for the parameter `:name`, as the second argument of `re.sub`.
        by_name: Pool options with which rows have names.
        many: What `execute_many` returns for three rows.
        uncounted: What `execute` says where the driver does not count the rows.
        guest: A method of a connection that makes something to fetch from, and the one to fetch.
        saying: Makes a function that runs statements with the driver's own connection.
        watch: Makes a view on what it does, where the database is no server.
        autocommits: Pool options with which a statement outside of a block commits by itself.
        commit_each: Has a borrowed connection do so.
        procedure: A statement that makes the procedure `doubled`, for `callproc()`.
        twice: Finds its result in what `callproc()` returns and in the rows.
        several: Pool options with which a string may hold several statements.
        native: Whether it is asyncio's own.
        without: What does not apply to it, and why.
    """

    name: str
    package: str | None
    like: Kind
    module: Any
    arguments: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    own: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    ways: Callable[[Mapping[str, Any]], Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]]] = (
        lambda _login: {}
    )
    by_socket: Callable[[Mapping[str, Any], Path], Mapping[str, Any]] | None = None
    by_file: Callable[[Path], Mapping[str, Any]] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    named: str = r"%(\1)s"
    by_name: Mapping[str, Any] = field(default_factory=dict)
    many: int = 3
    uncounted: int = -1
    guest: tuple[str, str] = "execute", "fetchone"
    saying: Callable[..., Callable[[Any], Any]] = on_a_thread
    watch: Watch | None = None
    autocommits: Mapping[str, Any] = field(default_factory=lambda: {"autocommit": True})
    commit_each: Callable[[Any], Awaitable[None]] = by_an_attribute
    procedure: str = ""
    twice: Callable[[Any, Sequence[Any]], Any] = lambda _returned, rows: rows[0][0]
    several: Mapping[str, Any] = field(default_factory=dict)
    native: bool = False
    without: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def has(self, *abilities: str) -> bool:
        """Tell whether all of that applies to it."""
        return self.lacks(*abilities) is None

    def lacks(self, *abilities: str) -> str | None:
        """Return why not all of that applies to it, or None if it does.

        A server's title is an ability of the drivers that are for it.

        Raises:
            LookupError: Nobody is without it: it is misspelt, or nothing to ask for.
        """
        if unknown := {*abilities} - known_abilities():
            raise LookupError(f"no driver is without {', '.join(map(repr, sorted(unknown)))}")
        if not _SERVERS.isdisjoint({*abilities} - {self.like.title}):
            return "the test is about another database"
        return next((self.without[each] for each in abilities if each in self.without), None)

    def database(self, place: Any) -> Database:
        """Describe the database there, with this driver."""
        kin = self.like.describe(place)
        twin = kin if self.native else None
        arguments = self.arguments(kin.arguments)
        own = self.own and self.own(kin.arguments)
        return replace(
            kin, module=self.module, arguments=arguments, own=own, twin=twin, **self.changes
        )

    def activity(self, database: Database, server: Server | None) -> Any:
        """Watch the database, for the length of a `with` block."""
        return observed(database, server, self.watch)

    def counted(self, count: int) -> int:
        """Return what `execute` says where it has changed so many rows."""
        return count if self.has("counts") else self.uncounted

    def with_names(self, sql: str) -> str:
        """Put the driver's own placeholder for each `:name`."""
        return re.sub(r":(\w+)", self.named, sql)


_NAMES = (
    "sqlite3",
    "psycopg2",
    "psycopg",
    "pg8000",
    "mysqldb",
    "pymysql",
    "duckdb",
    "pyodbc_postgres",
    "pyodbc_mariadb",
    "pyodbc_sqlite",
    "firebird",
    "adbc_sqlite",
    "adbc_postgres",
    "psycopg_async",
    "asyncpg",
    "aiomysql",
    "mariadb",
    "mysql_connector",
    "asyncmy",
    "shillelagh",
)


def subjects() -> list[Subject]:
    """Return every driver, in the order of the tables."""
    return [importlib.import_module(f"support.subjects.{name}").SUBJECT for name in _NAMES]


@cache
def known_abilities() -> frozenset[str]:
    """Return what can be asked for: what some driver is without, and the servers' titles."""
    return _SERVERS.union(*(subject.without for subject in subjects()))
