"""The shop of fastapi_app.py on PostgreSQL, with asyncpg or psycopg2: no handler knows which.

    SHOP_DRIVER=asyncpg SHOP_DSN=postgresql://localhost/shop uvicorn fastapi_postgres:app
    SHOP_DRIVER=psycopg2 SHOP_DSN=postgresql://localhost/shop uvicorn fastapi_postgres:app

Then look at http://127.0.0.1:8000/docs.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Query
from pydantic import BaseModel, Field

from asyncdbpool import Connection, ConnectionPool, PoolStats

DRIVER = os.environ.get("SHOP_DRIVER", "asyncpg")  # or psycopg2
DSN = os.environ.get("SHOP_DSN", "postgresql://localhost/shop")

# The one difference that these handlers meet: how a driver marks a statement's parameters.
MARKS = {"asyncpg": ("$1", "$2", "$3"), "psycopg2": ("%s", "%s", "%s")}[DRIVER]

SCHEMA = """
    CREATE TABLE IF NOT EXISTS item (
        id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name TEXT NOT NULL,
        stock INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS purchase (
        id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        item_id INTEGER NOT NULL REFERENCES item (id),
        quantity INTEGER NOT NULL
    );
"""
LARGEST = 2**31 - 1  # what fits into an INTEGER

pool = ConnectionPool(import_module(DRIVER), DSN, max_size=4)
BorrowedConnection = Annotated[Connection, Depends(pool.provide)]


def sql(text: str) -> str:
    """Put the driver's marks in the places of the `{}`."""
    return text.format(*MARKS)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with pool:
        await pool.execute(SCHEMA)
        yield


app = FastAPI(title="Shop", lifespan=lifespan)
ItemId = Annotated[int, Path(ge=1, le=LARGEST)]


class NewItem(BaseModel):
    name: str = Field(min_length=1)
    stock: int = Field(ge=0, le=LARGEST)


class Item(NewItem):
    id: int


class NewPurchase(BaseModel):
    quantity: int = Field(ge=1, le=LARGEST)


class Purchase(NewPurchase):
    id: int
    item_id: int


@app.post("/items", status_code=201)
async def create_item(item: NewItem) -> Item:
    # For a single statement the pool itself will do: it is a transaction of its own.
    insert = sql("INSERT INTO item (name, stock) VALUES ({}, {}) RETURNING id")
    id_ = await pool.fetch_val(insert, (item.name, item.stock))
    return Item(id=id_, name=item.name, stock=item.stock)


@app.get("/items")
async def list_items(
    conn: BorrowedConnection,
    offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> list[Item]:
    query = sql("SELECT id, name, stock FROM item ORDER BY id LIMIT {} OFFSET {}")
    rows = await conn.fetch_all(query, (limit, offset))
    return [Item(id=id_, name=name, stock=stock) for id_, name, stock in rows]


@app.get("/items/{item_id}")
async def read_item(item_id: ItemId) -> Item:
    row = await pool.fetch_one(sql("SELECT name, stock FROM item WHERE id = {}"), (item_id,))
    if row is None:
        raise HTTPException(404, "no such item")
    name, stock = row
    return Item(id=item_id, name=name, stock=stock)


@app.post("/items/{item_id}/purchases", status_code=201)
async def buy(item_id: ItemId, purchase: NewPurchase, conn: BorrowedConnection) -> Purchase:
    """Take the goods from the stock and book the purchase: both, or neither."""
    quantity = purchase.quantity
    take = sql("UPDATE item SET stock = stock - {} WHERE id = {} AND stock >= {} RETURNING stock")
    book = sql("INSERT INTO purchase (item_id, quantity) VALUES ({}, {}) RETURNING id")
    async with conn.transaction():
        if await conn.fetch_val(take, (quantity, item_id, quantity)) is None:
            raise HTTPException(409, "not in stock")
        id_ = await conn.fetch_val(book, (item_id, quantity))
    return Purchase(id=id_, item_id=item_id, quantity=quantity)


@app.get("/pool")
async def show_pool() -> PoolStats:
    return pool.stats()
