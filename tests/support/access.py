"""Looks at a pool from outside: ways into the servers that go past it, and its threads."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import MySQLdb
import psycopg2
import pytest

from asyncdbpool import Connection, ConnectionPool
from support.servers import PostgresServer, Server

EACH_SERVER = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
"""For a fixture that is each of the servers in turn."""


def module_for(server: Server) -> ModuleType:
    module: ModuleType = psycopg2 if isinstance(server, PostgresServer) else MySQLdb
    return module


def login(server: Server, **changes: Any) -> dict[str, Any]:
    """Connect keywords, the same ones for both drivers."""
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": server.database,
    } | changes


@contextmanager
def administrator(server: Server) -> Iterator[Any]:
    """A cursor that may do everything, outside of every transaction."""
    module = module_for(server)
    with closing(module.connect(**login(server, user=server.admin))) as connection:
        if module is psycopg2:
            connection.autocommit = True
        else:
            connection.autocommit(True)
        with closing(connection.cursor()) as cursor:
            yield cursor


def tell(server: Server, sql: str) -> list[Any]:
    """Run a statement as the administrator; return its rows, if it has any."""
    with administrator(server) as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def connections(server: Server) -> int:
    """How many connections of the ordinary user the server itself counts."""
    if isinstance(server, PostgresServer):
        view = "pg_stat_activity WHERE usename"
    else:
        view = "information_schema.processlist WHERE user"
    return int(tell(server, f"SELECT count(*) FROM {view} = '{server.user}'")[0][0])


def kill(server: Server, *backends: int) -> None:
    """End backends on the server, as its administrator does."""
    for backend in backends:
        if isinstance(server, PostgresServer):
            tell(server, f"SELECT pg_terminate_backend({backend}, 5000)")
        else:
            tell(server, f"KILL {backend}")


def kill_all(server: Server) -> None:
    """End every backend of the ordinary user, also one whose client has gone."""
    if isinstance(server, PostgresServer):
        where = f"FROM pg_stat_activity WHERE usename = '{server.user}'"
        tell(server, f"SELECT pg_terminate_backend(pid, 5000) {where}")
    else:
        tell(server, f"KILL USER '{server.user}'")


def threads(pool_name: str) -> list[str]:
    """The worker threads of a pool that live."""
    return [t.name for t in threading.enumerate() if t.name.startswith(f"{pool_name}-")]


def left_of(pool_name: str) -> list[str]:
    """The threads and the tasks of a pool that live."""
    tasks = [task.get_name() for task in asyncio.all_tasks()]
    return threads(pool_name) + [name for name in tasks if name.startswith(pool_name)]


async def eventually(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Wait for something that the pool or a server does by itself."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - a server sets no events
            await asyncio.sleep(0.01)


@contextmanager
def frozen(server: Server, *backends: int) -> Iterator[None]:
    """Stop the server, which goes on to accept connections, but does no more.

    PostgreSQL's other processes go on, unless it is the `backends` that they are.
    """
    stopped = [server.pid, *(backends if isinstance(server, PostgresServer) else ())]
    try:
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        while not all(_has_stopped(process) for process in stopped):
            time.sleep(0.001)
        yield
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)


def _has_stopped(process: int) -> bool:
    """Tell whether every thread has, which takes its time after the signal; Linux says it."""
    stats = Path(f"/proc/{process}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] in "tT" for stat in stats)


async def backend(server: Server, lender: ConnectionPool | Connection) -> int:
    """The number by which the server knows a connection."""
    function = "pg_backend_pid" if isinstance(server, PostgresServer) else "CONNECTION_ID"
    number: int = await lender.fetch_val(f"SELECT {function}()")
    return number


async def backends(server: Server, pool: ConnectionPool, count: int) -> list[int]:
    """Borrow `count` connections at once and return them; their numbers, the last used last."""
    conns = [await pool.get() for _ in range(count)]
    found = [await backend(server, conn) for conn in conns]
    for conn in conns:
        await pool.put(conn)
    return found


@asynccontextmanager
async def opened(server: Server, /, **options: Any) -> AsyncIterator[ConnectionPool]:
    """A pool on a server, which leaves no thread."""
    async with ConnectionPool(module_for(server), **login(server) | options) as pool:
        yield pool
    assert threads(pool.name) == []


@contextmanager
def empty_notes(server: Server) -> Iterator[None]:
    """An empty table `notes (id, body)`."""
    change(server, "DROP TABLE IF EXISTS notes")
    change(server, "CREATE TABLE notes (id integer PRIMARY KEY, body varchar(40))")
    yield
    change(server, "DROP TABLE notes")


def change(server: Server, sql: str) -> None:
    """Run a statement as the ordinary user, past the pool, and commit it."""
    with closing(module_for(server).connect(**login(server))) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql)
        connection.commit()


def written(server: Server) -> int:
    """How many notes others than the pool see."""
    return int(tell(server, "SELECT count(*) FROM notes")[0][0])
