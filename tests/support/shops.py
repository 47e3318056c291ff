"""The web applications among the examples: being served, asked, and watched in their database."""

import asyncio
import os
import socket
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import uvicorn
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from support.access import administrator, tell
from support.servers import PostgresServer

CROWD = 100
POOL_SIZE = 4
# Where nothing is said, uvicorn chooses the loop: uvloop, if it is installed.
LOOP = os.environ.get("ASYNCDBPOOL_LOOP", "auto")


@asynccontextmanager
async def serve_fastapi(example: ModuleType, patience: int | None = None) -> AsyncIterator[str]:
    """Run uvicorn on a thread, with an event loop of its own.

    Args:
        example: The application's module.
        patience: Seconds for requests that are still under way at the end; None: all they want.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=CROWD) as listener:
        config = uvicorn.Config(
            example.app,
            loop=LOOP,
            lifespan="on",
            log_level="warning" if patience is None else "critical",
            ws="none",
            timeout_graceful_shutdown=patience,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join)


@asynccontextmanager
async def serve_aiohttp(example: ModuleType) -> AsyncIterator[str]:
    """Run the application on this loop, as `web.run_app` does on its own."""
    runner = web.AppRunner(example.make_app())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class Census(ABC):
    """The shop's database behind the application's back.

    It counts the connections that are really open, whatever the pool says.

    Attributes:
        most: How many there have been at once, at most.
    """

    most = 0

    @abstractmethod
    def now(self) -> int:
        """Count the connections."""

    @abstractmethod
    def read(self, sql: str) -> list[Any]:
        """Run a query on a connection that does not count."""


class SQLiteCensus(Census):
    """Counts what `sqlite3.connect` gives, once that is wrapped."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._open: set[sqlite3.Connection] = set()

    def now(self) -> int:
        return len(self._open)

    def read(self, sql: str) -> list[Any]:
        with closing(sqlite3.Connection(self._database)) as raw:  # past the census
            return raw.execute(sql).fetchall()

    def connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `sqlite3.connect`."""
        census = self

        class Counted(sqlite3.Connection):
            def close(self) -> None:
                super().close()
                census._open.discard(self)

        def connect(*args: Any, **kwargs: Any) -> Any:
            raw = original(*args, factory=Counted, **kwargs)
            census._open.add(raw)
            census.most = max(census.most, len(census._open))
            return raw

        return connect


class PostgresCensus(Census):
    """Asks the server, again and again; what lasts for less than some milliseconds it may miss."""

    def __init__(self, server: PostgresServer, administrator: Any) -> None:
        self._server = server
        self._administrator = administrator
        self._lock = threading.Lock()
        self._over = threading.Event()

    def now(self) -> int:
        with self._lock:
            found = self._count("true")
            self.most = max(self.most, found)
        return found

    def count(self, condition: str) -> int:
        """Count the connections of which something is true."""
        with self._lock:
            return self._count(condition)

    def _count(self, condition: str) -> int:
        source = f"pg_stat_activity WHERE usename = '{self._server.user}'"
        self._administrator.execute(f"SELECT count(*) FROM {source} AND {condition}")
        return int(self._administrator.fetchone()[0])

    def read(self, sql: str) -> list[Any]:
        return tell(self._server, sql)

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.now()

    @classmethod
    @contextmanager
    def of(cls, server: PostgresServer) -> Iterator["PostgresCensus"]:
        """Watch a server."""
        with administrator(server) as cursor:
            census = cls(server, cursor)
            thread = threading.Thread(target=census._watch)
            thread.start()
            try:
                yield census
            finally:
                census._over.set()
                thread.join()


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any  # a refusal's is plain text here, JSON there: None


@dataclass
class Shop:
    """One of the applications, being served."""

    client: ClientSession
    census: Census

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request."""
        async with self.client.request(method, path, json=body) as response:
            return Answer(response.status, await response.json() if response.ok else None)

    async def ask_all(self, *requests: tuple[str, str, object]) -> list[Answer]:
        """Send all of the requests at once, each on a connection of its own."""
        return await asyncio.gather(*(self.ask(*request) for request in requests))

    async def pool_at_rest(self) -> dict[str, Any]:
        """The pool's figures once it has everything back.

        FastAPI ends a dependency when the answer has been sent, so the client may be quicker.
        """
        async with asyncio.timeout(10):
            while True:
                figures: dict[str, Any] = (await self.ask("GET", "/pool")).body
                if figures["in_use"] == figures["connecting"] == figures["waiting"] == 0:
                    return figures
                await asyncio.sleep(0.01)

    def read(self, sql: str) -> list[Any]:
        """Look into the database behind the application's back."""
        return self.census.read(sql)


@asynccontextmanager
async def visit(serving: AbstractAsyncContextManager[str], census: Census) -> AsyncIterator[Shop]:
    """Serve an application, and bring a client that can send it a crowd of requests."""
    connector = TCPConnector(limit=CROWD)
    async with (
        serving as url,
        ClientSession(url, timeout=ClientTimeout(30), connector=connector) as client,
    ):
        yield Shop(client, census)
