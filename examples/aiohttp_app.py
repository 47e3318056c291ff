"""The same shop with aiohttp: the pool lives as long as the application, in its `cleanup_ctx`.

    SHOP_DATABASE=shop.db python aiohttp_app.py

Then look at http://127.0.0.1:8080/items.
"""

import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from aiohttp import web

from asyncdbpool import ConnectionPool

SCHEMA = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS item (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, stock INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS purchase (
        id INTEGER PRIMARY KEY,
        item_id INTEGER NOT NULL REFERENCES item (id),
        quantity INTEGER NOT NULL
    );
"""

POOL = web.AppKey("POOL", ConnectionPool)
routes = web.RouteTableDef()


async def keep_pool(app: web.Application) -> AsyncIterator[None]:
    """Open the pool before the first request and close it after the last one."""
    async with ConnectionPool(
        sqlite3,
        os.environ.get("SHOP_DATABASE", "shop.db"),
        max_size=4,
        isolation_level="IMMEDIATE",  # a transaction takes SQLite's write lock when it begins
    ) as pool:
        async with pool.connection() as conn:
            await conn.executescript(SCHEMA)
        app[POOL] = pool
        yield


@routes.post("/items")
async def create_item(request: web.Request) -> web.Response:
    # The body comes first: no connection is held while a slow client is still sending.
    item = await read_body(request, name=str, stock=int)
    async with request.app[POOL].transaction() as conn:
        insert = "INSERT INTO item (name, stock) VALUES (:name, :stock)"
        cursor = await conn.execute(insert, item)
        item["id"] = cursor.lastrowid
    return web.json_response(item, status=201)


@routes.get("/items")
async def list_items(request: web.Request) -> web.Response:
    async with request.app[POOL].connection() as conn:
        cursor = await conn.execute("SELECT id, name, stock FROM item ORDER BY id")
        items = [{"id": id_, "name": name, "stock": stock} async for id_, name, stock in cursor]
    return web.json_response(items)


@routes.get(r"/items/{item_id:\d+}")
async def read_item(request: web.Request) -> web.Response:
    # For a single query the pool itself will do.
    item_id = int(request.match_info["item_id"])
    query = "SELECT name, stock FROM item WHERE id = ?"
    row = await request.app[POOL].fetch_one(query, (item_id,))
    if row is None:
        raise web.HTTPNotFound(text="no such item")
    name, stock = row
    return web.json_response({"id": item_id, "name": name, "stock": stock})


@routes.post(r"/items/{item_id:\d+}/purchases")
async def buy(request: web.Request) -> web.Response:
    """Book the purchase and take the goods from the stock: both, or neither."""
    purchase = await read_body(request, quantity=int)
    if purchase["quantity"] < 1:
        raise web.HTTPUnprocessableEntity(text="a purchase is of one or more")
    purchase["item_id"] = int(request.match_info["item_id"])
    async with request.app[POOL].transaction() as conn:
        booking = "INSERT INTO purchase (item_id, quantity) VALUES (:item_id, :quantity)"
        booked = await conn.execute(booking, purchase)
        taking = (
            "UPDATE item SET stock = stock - :quantity WHERE id = :item_id AND stock >= :quantity"
        )
        taken = await conn.execute(taking, purchase)
        if taken.rowcount == 0:
            raise web.HTTPConflict(text="not in stock")  # which undoes the booking
        purchase["id"] = booked.lastrowid
    return web.json_response(purchase, status=201)


@routes.get("/pool")
async def show_pool(request: web.Request) -> web.Response:
    return web.json_response(asdict(request.app[POOL].stats()))


async def read_body(request: web.Request, **fields: type) -> dict[str, Any]:
    """The fields of a JSON body, or a polite refusal."""
    try:
        body = await request.json()
        return {name: kind(body[name]) for name, kind in fields.items()}
    except (KeyError, TypeError, ValueError):
        raise web.HTTPUnprocessableEntity(text=f"expected JSON with {', '.join(fields)}") from None


def make_app() -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(keep_pool)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1")
