"""The web applications over real HTTP: a hundred requests at once on four connections."""

import asyncio
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import uvicorn
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from support.examples import load

CROWD = 100
POOL_SIZE = 4

Serve = Callable[[ModuleType], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def serve_fastapi(example: ModuleType) -> AsyncIterator[str]:
    """Run uvicorn on a thread, with an event loop of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=CROWD) as listener:
        config = uvicorn.Config(example.app, lifespan="on", log_level="warning", ws="none")
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


class Census:
    """Counts the connections to SQLite that are really open, whatever the pool says."""

    def __init__(self) -> None:
        self.open: set[sqlite3.Connection] = set()
        self.most = 0

    def connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `sqlite3.connect`."""
        census = self

        class Counted(sqlite3.Connection):
            def close(self) -> None:
                super().close()
                census.open.discard(self)

        def connect(*args: Any, **kwargs: Any) -> Any:
            raw = original(*args, factory=Counted, **kwargs)
            census.open.add(raw)
            census.most = max(census.most, len(census.open))
            return raw

        return connect


class Answer(NamedTuple):
    status: int
    body: Any  # a refusal's is plain text here, JSON there: None


@dataclass
class Shop:
    """One of the applications, being served."""

    client: ClientSession
    database: Path
    census: Census

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
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
        with closing(sqlite3.Connection(self.database)) as raw:  # past the census
            return raw.execute(sql).fetchall()


@pytest.fixture(params=["fastapi_app", "aiohttp_app"])
async def shop(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    serve: dict[str, Serve] = {"fastapi_app": serve_fastapi, "aiohttp_app": serve_aiohttp}
    database = tmp_path / "shop.db"
    census = Census()
    monkeypatch.setenv("SHOP_DATABASE", str(database))
    monkeypatch.setattr(sqlite3, "connect", census.connect(sqlite3.connect))
    async with (
        serve[request.param](load(request.param)) as url,
        ClientSession(
            url, timeout=ClientTimeout(30), connector=TCPConnector(limit=CROWD)
        ) as client,
    ):
        yield Shop(client, database, census)
    assert census.most <= POOL_SIZE
    assert census.open == set(), "connections are left after the shutdown"


async def test_a_hundred_requests_at_once_share_four_connections(shop: Shop) -> None:
    wanted = [{"name": f"thing {n}", "stock": n} for n in range(CROWD)]
    answers = await shop.ask_all(*(("POST", "/items", item) for item in wanted))
    assert {answer.status for answer in answers} == {201}
    items = [answer.body for answer in answers]
    assert [{"name": item["name"], "stock": item["stock"]} for item in items] == wanted
    assert {item["id"] for item in items} == set(range(1, CROWD + 1))

    answers = await shop.ask_all(*(("GET", f"/items/{item['id']}", None) for item in items))
    assert [answer.body for answer in answers] == items
    answers = await shop.ask_all(*[("GET", "/items", None)] * CROWD)
    listed = sorted(items, key=lambda item: int(item["id"]))
    assert all(answer.body == listed for answer in answers)

    figures = await shop.pool_at_rest()
    assert figures["max_size"] == POOL_SIZE
    assert 1 < figures["created"] == shop.census.most <= POOL_SIZE
    assert figures["acquired"] >= 3 * CROWD
    assert figures["wait_seconds"] > 0
    assert figures["timeouts"] == figures["discarded"] == figures["reclaimed"] == 0
    assert figures["size"] == figures["idle"] == len(shop.census.open)


async def test_a_hundred_customers_cannot_buy_more_than_there_is(shop: Shop) -> None:
    stock = 30
    item = (await shop.ask("POST", "/items", {"name": "the last ones", "stock": stock})).body
    path = f"/items/{item['id']}/purchases"
    answers = await shop.ask_all(*[("POST", path, {"quantity": 1})] * CROWD)
    assert Counter(answer.status for answer in answers) == {201: stock, 409: CROWD - stock}
    purchases = [answer.body for answer in answers if answer.status == 201]
    assert all(bought["item_id"] == item["id"] for bought in purchases)
    assert (await shop.ask("GET", f"/items/{item['id']}")).body == {**item, "stock": 0}
    # What was refused was undone: only the purchases that were answered so are booked.
    booked = shop.read("SELECT id, item_id, quantity FROM purchase ORDER BY id")
    assert booked == [(n, item["id"], 1) for n in sorted(bought["id"] for bought in purchases)]
    figures = await shop.pool_at_rest()
    assert figures["in_use"] == 0
    assert figures["created"] <= POOL_SIZE


async def test_answers_stay_right_while_half_of_the_crowd_asks_for_nonsense(shop: Shop) -> None:
    item = (await shop.ask("POST", "/items", {"name": "tea", "stock": 1_000})).body
    path = f"/items/{item['id']}"
    kinds: list[tuple[tuple[str, str, object], int]] = [
        (("GET", path, None), 200),
        (("GET", "/items/4711", None), 404),
        (("POST", f"{path}/purchases", {"quantity": 2}), 201),
        (("POST", f"{path}/purchases", {"quantity": 5_000}), 409),
        (("POST", "/items/4711/purchases", {"quantity": 1}), 409),
        (("POST", f"{path}/purchases", {"quantity": -1}), 422),
        (("POST", "/items", {"name": "no stock given"}), 422),
        (("POST", "/items", {"name": "x", "stock": "lots"}), 422),
        (("POST", "/items", {"name": "cup", "stock": 3}), 201),
        (("GET", "/items", None), 200),
    ] * (CROWD // 10)
    answers = await shop.ask_all(*(request for request, _ in kinds))
    assert [answer.status for answer in answers] == [code for _, code in kinds]
    assert shop.read("SELECT name, stock, count(*) FROM item GROUP BY name, stock") == [
        ("cup", 3, 10),
        ("tea", 980, 1),
    ]
    assert shop.read("SELECT count(*), sum(quantity) FROM purchase") == [(10, 20)]
    figures = await shop.pool_at_rest()
    assert figures["in_use"] == 0
    assert figures["created"] <= POOL_SIZE


async def test_customers_who_hang_up_leave_no_connection_behind(shop: Shop) -> None:
    await shop.ask("POST", "/items", {"name": "tea", "stock": 1_000})
    impatient = [
        asyncio.create_task(shop.ask("POST", "/items/1/purchases", {"quantity": 1}))
        for _ in range(CROWD)
    ]
    done, _ = await asyncio.wait(impatient, return_when=asyncio.FIRST_COMPLETED)
    assert all(task.result().status == 201 for task in done)
    for task in impatient:
        task.cancel()
    await asyncio.wait(impatient)
    answered = sum(not task.cancelled() for task in impatient)
    figures = await shop.pool_at_rest()
    assert figures["created"] <= POOL_SIZE
    # All or nothing, for those too who did not wait for the answer.
    [(booked,)] = shop.read("SELECT count(*) FROM purchase")
    assert shop.read("SELECT stock FROM item") == [(1_000 - booked,)]
    assert answered <= booked <= CROWD
