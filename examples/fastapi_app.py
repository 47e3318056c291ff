"""A shop with FastAPI: each request that asks for a connection gets one from the pool.

    SHOP_DATABASE=shop.db uvicorn fastapi_app:app

Then look at http://127.0.0.1:8000/docs.
"""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

from asyncdbpool import Connection, ConnectionPool, PoolStats

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

pool = ConnectionPool(
    sqlite3,
    os.environ.get("SHOP_DATABASE", "shop.db"),
    max_size=4,
    isolation_level="IMMEDIATE",  # a transaction takes SQLite's write lock when it begins
)
BorrowedConnection = Annotated[Connection, Depends(pool.provide)]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        async with pool.connection() as conn:
            await conn.executescript(SCHEMA)
        yield


app = FastAPI(title="Shop", lifespan=lifespan)


class NewItem(BaseModel):
    name: str = Field(min_length=1)
    stock: int = Field(ge=0)


class Item(NewItem):
    id: int


class NewPurchase(BaseModel):
    quantity: int = Field(ge=1)


class Purchase(NewPurchase):
    id: int
    item_id: int


@app.post("/items", status_code=201)
async def create_item(item: NewItem, conn: BorrowedConnection) -> Item:
    cursor = await conn.execute(
        "INSERT INTO item (name, stock) VALUES (?, ?)", (item.name, item.stock)
    )
    await conn.commit()
    return Item(id=cursor.lastrowid, name=item.name, stock=item.stock)


@app.get("/items")
async def list_items(
    conn: BorrowedConnection,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> list[Item]:
    query = "SELECT id, name, stock FROM item ORDER BY id LIMIT ? OFFSET ?"
    cursor = await conn.execute(query, (limit, offset))
    return [Item(id=id_, name=name, stock=stock) async for id_, name, stock in cursor]


@app.get("/items/{item_id}")
async def read_item(item_id: int) -> Item:
    # For a single query the pool itself will do; no connection is held around it.
    row = await pool.fetch_one("SELECT name, stock FROM item WHERE id = ?", (item_id,))
    if row is None:
        raise HTTPException(404, "no such item")
    name, stock = row
    return Item(id=item_id, name=name, stock=stock)


@app.post("/items/{item_id}/purchases", status_code=201)
async def buy(item_id: int, purchase: NewPurchase, conn: BorrowedConnection) -> Purchase:
    """Book the purchase and take the goods from the stock: both, or neither."""
    quantity = purchase.quantity
    async with conn.transaction():
        booking = "INSERT INTO purchase (item_id, quantity) VALUES (?, ?)"
        booked = await conn.execute(booking, (item_id, quantity))
        taking = "UPDATE item SET stock = stock - ? WHERE id = ? AND stock >= ?"
        taken = await conn.execute(taking, (quantity, item_id, quantity))
        if taken.rowcount == 0:
            raise HTTPException(409, "not in stock")  # which undoes the booking
    return Purchase(id=booked.lastrowid, item_id=item_id, quantity=quantity)


@app.get("/pool")
async def show_pool() -> PoolStats:
    return pool.stats()
