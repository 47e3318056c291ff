"""The web applications over real HTTP: a hundred requests at once on four connections."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientError

from support.access import administrator, change, eventually
from support.examples import load
from support.servers import PostgresServer
from support.shops import (
    CROWD,
    POOL_SIZE,
    PostgresCensus,
    Shop,
    SQLiteCensus,
    serve_aiohttp,
    serve_fastapi,
    visit,
)

ON_SQLITE = {"fastapi_app": serve_fastapi, "aiohttp_app": serve_aiohttp}
POSTGRES_DRIVERS = ["asyncpg", "psycopg2"]


@pytest.fixture(
    params=[
        *ON_SQLITE,
        *(
            pytest.param(driver, id=f"fastapi_postgres-{driver}", marks=pytest.mark.postgres)
            for driver in POSTGRES_DRIVERS
        ),
    ]
)
async def shop(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """Each of the applications in turn, and the one on PostgreSQL with each of its drivers."""
    if request.param in ON_SQLITE:
        opened = sqlite_shop(request.param, tmp_path / "shop.db", monkeypatch)
    else:
        server = request.getfixturevalue("postgres")
        opened = postgres_shop(request.param, server, monkeypatch)
    async with opened as shop:
        yield shop


@asynccontextmanager
async def sqlite_shop(
    name: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    census = SQLiteCensus(database)
    monkeypatch.setenv("SHOP_DATABASE", str(database))
    monkeypatch.setattr(sqlite3, "connect", census.connect(sqlite3.connect))
    async with visit(ON_SQLITE[name](load(name)), census) as shop:
        yield shop
    assert census.most <= POOL_SIZE
    assert census.now() == 0, "connections are left after the shutdown"


@asynccontextmanager
async def postgres_shop(
    driver: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    with postgres_census(driver, server, monkeypatch) as census:
        async with visit(serve_fastapi(load("fastapi_postgres")), census) as shop:
            yield shop
            # Nothing runs, and no transaction is open.
            await eventually(lambda: census.count("state <> 'idle'") == 0)
        assert census.most <= POOL_SIZE
        await eventually(lambda: census.now() == 0)


@contextmanager
def postgres_census(
    driver: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresCensus]:
    """Have the shop use a server, and remove its tables at the end."""
    login = f"{server.user}:{server.password}@{server.host}:{server.port}"
    monkeypatch.setenv("SHOP_DRIVER", driver)
    monkeypatch.setenv("SHOP_DSN", f"postgresql://{login}/{server.database}")
    try:
        with PostgresCensus.of(server) as census:
            yield census
    finally:
        change(server, "DROP TABLE IF EXISTS purchase, item")


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
    assert figures["size"] == figures["idle"] == shop.census.now()
    assert 1 < figures["created"] == shop.census.most <= POOL_SIZE
    assert figures["acquired"] >= 3 * CROWD
    assert figures["wait_seconds"] > 0
    assert figures["timeouts"] == figures["discarded"] == figures["reclaimed"] == 0


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
    assert shop.read("SELECT name, stock, count(*) FROM item GROUP BY 1, 2 ORDER BY 1") == [
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
    [(stock, booked)] = shop.read("SELECT stock, (SELECT count(*) FROM purchase) FROM item")
    assert stock == 1_000 - booked
    assert answered <= booked <= CROWD


@pytest.mark.parametrize("driver", POSTGRES_DRIVERS)
async def test_a_shutdown_cancels_what_the_last_customers_wait_for_in_the_database(
    driver: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        postgres_census(driver, postgres, monkeypatch) as census,
        administrator(postgres) as till,
    ):
        application = load("fastapi_postgres")
        async with visit(serve_fastapi(application, patience=1), census) as shop:
            await shop.ask("POST", "/items", {"name": "tea", "stock": 1_000})
            till.execute("BEGIN; SELECT * FROM item FOR UPDATE")
            purchase = ("POST", "/items/1/purchases", {"quantity": 1})
            customers = [asyncio.create_task(shop.ask(*purchase)) for _ in range(CROWD)]
            await eventually(lambda: census.count("wait_event_type = 'Lock'") == POOL_SIZE)
        for outcome in await asyncio.gather(*customers, return_exceptions=True):
            assert isinstance(outcome, ClientError)
        # The item is still locked: a purchase that nobody had cancelled would still be waiting.
        await eventually(lambda: census.now() == 0)
        till.execute("ROLLBACK")
        assert census.most <= POOL_SIZE
        assert census.read("SELECT stock FROM item") == [(1_000,)]
        assert census.read("SELECT * FROM purchase") == []
        stats = application.pool.stats()
        assert stats.cancelled == POOL_SIZE
        assert stats.size == 0
