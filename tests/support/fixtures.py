"""Fixtures that run a test on every database, with every driver for it, and count its hops."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asyncdbpool import Connection, ConnectionPool, _native
from asyncdbpool._workers import Job, Worker
from support.access import tell
from support.activity import Activity, observed
from support.databases import (
    MARIADB_MODES,
    POSTGRES_MODES,
    SQLITE_MODES,
    Database,
    duckdb_at,
    mariadb_natively,
    mariadb_on,
    mariadb_with_pymysql,
    mariadb_with_pyodbc,
    postgres_natively,
    postgres_on,
    postgres_with_psycopg,
    postgres_with_pyodbc,
    sqlite_at,
)
from support.servers import MariaDBServer, PostgresServer, Server

MODES = [
    *[pytest.param(("sqlite3", mode), id=f"sqlite3-{mode}") for mode in SQLITE_MODES],
    *[
        pytest.param(("psycopg2", mode), id=f"psycopg2-{mode}", marks=pytest.mark.postgres)
        for mode in POSTGRES_MODES
    ],
    *[
        pytest.param(("MySQLdb", mode), id=f"MySQLdb-{mode}", marks=pytest.mark.mariadb)
        for mode in MARIADB_MODES
    ],
]


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    """A database file, for sqlite3."""
    return sqlite_at(tmp_path)


@pytest.fixture
def postgresql(postgres: PostgresServer) -> Database:
    """The shared PostgreSQL, for psycopg2."""
    return postgres_on(postgres)


@pytest.fixture
def mysql(mariadb: MariaDBServer) -> Database:
    """The shared MariaDB, for MySQLdb."""
    return mariadb_on(mariadb)


@pytest.fixture
def secured(postgres: PostgresServer) -> Iterator[None]:
    """The shared PostgreSQL speaks TLS, with a certificate that it signs itself."""
    made = "openssl req -x509 -nodes -subj /CN=localhost -keyout server.key -out server.crt"
    tell(postgres, f"COPY (SELECT 1) TO PROGRAM '{made} 2>/dev/null'")
    tell(postgres, "ALTER SYSTEM SET ssl = on")
    tell(postgres, "SELECT pg_reload_conf()")
    yield
    tell(postgres, "ALTER SYSTEM RESET ssl")
    tell(postgres, "SELECT pg_reload_conf()")


BLOCKING = [
    "sqlite3",
    pytest.param("psycopg2", marks=pytest.mark.postgres),
    pytest.param("MySQLdb", marks=pytest.mark.mariadb),
]
NATIVE = [
    pytest.param("asyncpg", marks=pytest.mark.postgres),
    pytest.param("aiomysql", marks=pytest.mark.mariadb),
]
EVERY = [*BLOCKING, *NATIVE]
SERVED = [*BLOCKING[1:], *NATIVE]
"""For a module's own fixture `database`; `server` is the server of each of these."""

with_every_driver = pytest.mark.parametrize("database", EVERY, indirect=True)
"""Has the fixture `database`, and what is made from it, take each of the five drivers in turn."""

with_native_drivers = pytest.mark.parametrize("database", NATIVE, indirect=True)
"""The same with the two native ones."""

with_blocking_drivers = pytest.mark.parametrize("database", BLOCKING, indirect=True)
"""The same with the three blocking ones."""

with_blocking_servers = pytest.mark.parametrize("database", BLOCKING[1:], indirect=True)
"""The same with the two blocking ones that have a server."""


@pytest.fixture
def asyncpg_database(postgres: PostgresServer) -> Database:
    """The shared PostgreSQL, for asyncpg."""
    return postgres_natively(postgres)


@pytest.fixture
def aiomysql_database(mariadb: MariaDBServer) -> Database:
    """The shared MariaDB, for aiomysql."""
    return mariadb_natively(mariadb)


@pytest.fixture
def psycopg_database(postgres: PostgresServer) -> Database:
    """The shared PostgreSQL, for psycopg."""
    return postgres_with_psycopg(postgres)


@pytest.fixture
def pymysql_database(mariadb: MariaDBServer) -> Database:
    """The shared MariaDB, for PyMySQL."""
    return mariadb_with_pymysql(mariadb)


@pytest.fixture
def duckdb_database(tmp_path: Path) -> Database:
    """A database file, for DuckDB."""
    return duckdb_at(tmp_path)


@pytest.fixture
def pyodbc_database(postgres: PostgresServer) -> Database:
    """The shared PostgreSQL, for pyodbc."""
    return postgres_with_pyodbc(postgres)


@pytest.fixture
def pyodbc_mariadb(mariadb: MariaDBServer) -> Database:
    """The shared MariaDB, for pyodbc."""
    return mariadb_with_pyodbc(mariadb)


@pytest.fixture(params=BLOCKING)
def database(request: pytest.FixtureRequest) -> Database:
    """Each of the three databases in turn, with a blocking driver.

    A test that takes native drivers too says so with `with_every_driver` or `with_native_drivers`.
    """
    return described(request, request.param)


@pytest.fixture(params=MODES)
def database_in_mode(request: pytest.FixtureRequest) -> Database:
    """Each of the three databases with each of its ways to begin a transaction."""
    name, mode = request.param
    return described(request, name).in_mode(mode)


def described(request: pytest.FixtureRequest, name: str) -> Database:
    """Return the database for a driver."""
    fixture = {
        "sqlite3": "sqlite",
        "psycopg2": "postgresql",
        "MySQLdb": "mysql",
        "asyncpg": "asyncpg_database",
        "aiomysql": "aiomysql_database",
        "pyodbc": "pyodbc_database",
        "pyodbc on MariaDB": "pyodbc_mariadb",
    }[name]
    described: Database = request.getfixturevalue(fixture)
    return described


@pytest.fixture
def activity(request: pytest.FixtureRequest, database: Database) -> Iterator[Activity]:
    """The fixture `database`, with a view on what happens there."""
    with observed(database, _server_of(request, database)) as activity:
        yield activity


@pytest.fixture
def server(request: pytest.FixtureRequest, database: Database) -> Server:
    """The server of the fixture `database`."""
    found = _server_of(request, database)
    assert found is not None, f"{database.name} has no server"
    return found


def _server_of(request: pytest.FixtureRequest, database: Database) -> Server | None:
    name = database.server
    found: Server | None = None if name is None else request.getfixturevalue(name)
    return found


@pytest.fixture
def items(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty table `items (id, name)` in the test's database; its name."""
    by_mode = "database_in_mode" in request.fixturenames
    database: Database = request.getfixturevalue("database_in_mode" if by_mode else "database")
    database.change(
        "DROP TABLE IF EXISTS items", "CREATE TABLE items (id INTEGER, name VARCHAR(40))"
    )
    yield "items"
    database.change("DROP TABLE items")


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[ConnectionPool]:
    """A pool of two connections."""
    async with database.pool(max_size=2) as pool:
        yield pool


@pytest.fixture
async def conn(pool: ConnectionPool) -> AsyncIterator[Connection]:
    """A borrowed connection."""
    async with pool.connection() as conn:
        yield conn


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a cancel all the time that it takes before a function is cancelled itself.

    Else a slow machine costs drivers that do not survive that (aiomysql, asyncmy) a connection.
    """
    monkeypatch.setattr(_native, "_TO_NOTICE", 20.0)


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every call that went to a worker's thread."""
    made: list[Job] = []
    put = Worker.put

    def counted(worker: Worker, job: Job) -> None:
        made.append(job)
        put(worker, job)

    monkeypatch.setattr(Worker, "put", counted)
    return made
