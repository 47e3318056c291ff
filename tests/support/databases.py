"""The real databases of the tests and their drivers, so that a test is written once for all."""

import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count as counting
from pathlib import Path
from typing import Any, Self

import aiomysql
import asyncpg
import duckdb
import MySQLdb
import psycopg
import psycopg2
import pymysql
import pyodbc

from asyncdbpool import ConnectionPool
from support.access import left_of, login
from support.servers import MariaDBServer, PostgresServer


def insert(*ids: int) -> str:
    """Return a statement for rows of the table `wares`, as most databases take it."""
    return "INSERT INTO wares VALUES " + ", ".join(f"({n}, 'item {n}')" for n in ids)


@dataclass(frozen=True)
class Database:
    """A driver and a database for it.

    Attributes:
        module: The driver's module.
        arguments: What its `connect()` takes.
        placeholder: What stands for a parameter in its SQL; `$` is followed by a number.
        series: A query for the rows `(1, 'row 1')` to `(count, 'row <count>')`.
        modes: Pool options for every way in which its connections begin transactions.
        options: Pool options that a pool gets unless told otherwise.
        twin: For a native driver: the same database, with a blocking one.
        server: The fixture that is its server, if it has one.
        dual: What a query ends with that asks no table.
        begin: The statement that opens a transaction; None where every statement does.
        creates: Makes a table where it is not there.
        inserts: Makes a statement for rows of the table `wares`.
        raises: What it raises, too, that does not descend from the module's `Error`.
        own: The same arguments as the module itself takes them, where the library takes others.
    """

    module: Any
    arguments: Mapping[str, Any]
    placeholder: str
    series: str
    modes: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    twin: Self | None = None
    server: str | None = None
    dual: str = ""
    begin: str | None = "BEGIN"
    creates: str = "CREATE TABLE IF NOT EXISTS {table} ({columns})"
    inserts: Callable[..., str] = insert
    raises: tuple[type[Exception], ...] = ()
    own: Mapping[str, Any] | None = None

    @property
    def native(self) -> bool:
        """True where the driver is asyncio's own."""
        return self.twin is not None

    @property
    def name(self) -> str:
        """The module's name."""
        return str(self.module.__name__)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the driver's own errors are: PEP 249 has one root for them, asyncpg several."""
        if self.module is asyncpg:
            return asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        return (self.module.Error, *self.raises)

    def connect(self) -> Any:
        """Make a blocking connection without a pool."""
        if self.twin is not None:
            return self.twin.connect()
        return self.module.connect(**self.plain)

    @property
    def plain(self) -> Mapping[str, Any]:
        """What the module's own `connect()` takes."""
        return self.arguments if self.own is None else self.own

    def pool(self, **options: Any) -> ConnectionPool:
        """Make a pool; `options` may be connect keywords, too."""
        return ConnectionPool(self.module, **{**self.arguments, **self.options, **options})

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[ConnectionPool]:
        """Open a pool, which leaves no thread and no task."""
        async with self.pool(**options) as pool:
            yield pool
        assert left_of(pool.name) == []

    def in_mode(self, mode: str) -> Self:
        """Return the same database with transactions begun in one of its `modes`."""
        return replace(self, options=self.modes[mode])

    def sql(self, text: str) -> str:
        """Put the driver's own placeholder for each `?`."""
        if self.placeholder == "$":
            numbers = counting(1)
            return re.sub(r"\?", lambda _: f"${next(numbers)}", text)
        return text.replace("?", self.placeholder)

    def rows(self, count: int) -> str:
        """Return a query for `count` rows, see `expected()`."""
        return self.series.format(count=count, most=max(count, 1))

    def select(self, what: Any) -> str:
        """Return a query for one value."""
        return f"SELECT {what}{self.dual}"

    def change(self, *statements: str) -> None:
        """Run statements on a connection of their own, and commit them."""
        connection = self.connect()
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            cursor.close()
            connection.commit()
        finally:
            connection.close()


class Values(tuple[Any, ...]):
    """The values of a row; pyodbc's rows are no tuples, and compare with their like only."""

    __slots__ = ()
    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        row: Any = other
        return tuple(self) == tuple(row)


def expected(count: int) -> list[Values]:
    """Return the rows that `Database.rows(count)` asks for."""
    return [Values((n, f"row {n}")) for n in range(1, count + 1)]


def sqlite_at(folder: Path) -> Database:
    """Describe a database file for sqlite3."""
    return Database(
        module=sqlite3,
        arguments={"database": str(folder / "shop.db")},
        placeholder="?",
        series=(
            "WITH RECURSIVE series(n) AS (VALUES(1) UNION ALL"
            " SELECT n + 1 FROM series WHERE n < {most})"
            " SELECT n, 'row ' || n AS label FROM series WHERE n <= {count}"
        ),
        modes=SQLITE_MODES,
    )


def duckdb_at(folder: Path) -> Database:
    """Describe a database file for DuckDB, which is to leave the test a processor."""
    return Database(
        module=duckdb,
        arguments={"database": str(folder / "shop.duckdb"), "config": {"threads": 1}},
        placeholder="?",
        series="SELECT n, 'row ' || n AS label FROM range(1, {count} + 1) AS series(n)",
        modes={"by the module": {}},
    )


def postgres_on(server: PostgresServer) -> Database:
    """Describe a server's database for psycopg2."""
    return Database(
        module=psycopg2,
        # A test that waits for the lock of another one is to fail, not to hang.
        arguments={**login(server), "options": "-c lock_timeout=10s"},
        placeholder="%s",
        series="SELECT n, 'row ' || n AS label FROM generate_series(1, {count}) AS n",
        modes=POSTGRES_MODES,
        server="postgres",
    )


def postgres_with_psycopg(server: PostgresServer) -> Database:
    """Describe a server's database for psycopg."""
    kin = postgres_on(server)
    arguments = dict(kin.arguments)
    arguments["dbname"] = arguments.pop("database")
    return replace(kin, module=psycopg, arguments=arguments)


def mariadb_on(server: MariaDBServer) -> Database:
    """Describe a server's database for MySQLdb."""
    return Database(
        module=MySQLdb,
        arguments={
            **login(server),
            "charset": "utf8mb4",
            "init_command": "SET lock_wait_timeout = 10, innodb_lock_wait_timeout = 10",
        },
        placeholder="%s",
        series=(
            "SELECT seq AS n, CONCAT('row ', seq) AS label"
            " FROM seq_1_to_{most} WHERE seq <= {count}"
        ),
        modes=MARIADB_MODES,
        server="mariadb",
    )


def postgres_with_pyodbc(server: PostgresServer) -> Database:
    """Describe a server's database for pyodbc and PostgreSQL's ODBC driver."""
    return replace(
        postgres_on(server),
        module=pyodbc,
        arguments={
            **login(server),
            "DRIVER": "PostgreSQL Unicode",
            "connsettings": "SET lock_timeout TO '10s'",
        },
        placeholder="?",
        modes=ODBC_MODES,
    )


def mariadb_with_pyodbc(server: MariaDBServer) -> Database:
    """Describe a server's database for pyodbc and MariaDB's ODBC driver."""
    return replace(
        mariadb_on(server),
        module=pyodbc,
        arguments={**login(server), "DRIVER": "MariaDB Unicode"},
        placeholder="?",
        modes=ODBC_MODES,
    )


def mariadb_with_pymysql(server: MariaDBServer) -> Database:
    """Describe a server's database for PyMySQL."""
    return replace(mariadb_on(server), module=pymysql)


def postgres_natively(server: PostgresServer) -> Database:
    """Describe a server's database for asyncpg."""
    return replace(
        postgres_on(server),
        module=asyncpg,
        arguments={**login(server), "server_settings": {"lock_timeout": "10s"}},
        placeholder="$",
        modes={"by the module": {}},
        twin=postgres_on(server),
    )


def mariadb_natively(server: MariaDBServer) -> Database:
    """Describe a server's database for aiomysql."""
    twin = mariadb_on(server)
    arguments = dict(twin.arguments)
    arguments["db"] = arguments.pop("database")
    return replace(twin, module=aiomysql, arguments=arguments, twin=twin)


def _commit_each(raw: Any) -> None:
    raw.autocommit = True


SQLITE_MODES: dict[str, dict[str, Any]] = {
    "by the module": {},
    "immediate": {"isolation_level": "IMMEDIATE"},
    "none": {"isolation_level": None},
}
if sys.version_info >= (3, 12):
    SQLITE_MODES |= {"autocommit": {"autocommit": True}, "pep249": {"autocommit": False}}

POSTGRES_MODES: dict[str, dict[str, Any]] = {"by the module": {}, "none": {"setup": _commit_each}}

ODBC_MODES: dict[str, dict[str, Any]] = {"by the module": {}, "none": {"autocommit": True}}

MARIADB_MODES: dict[str, dict[str, Any]] = {"by the server": {}, "none": {"autocommit": True}}
