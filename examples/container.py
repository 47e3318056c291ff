"""A dependency-injection container, dishka: each scope that needs a connection gets one.

The pool knows how to provide its connections; the container calls that when the first dependant
in a scope asks, hands the same connection to the others, and gives it back when the scope ends.
"""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from dishka import Provider, Scope, make_async_container

from asyncdbpool import Connection, ConnectionPool


class Accounts:
    """Business code: it asks for a connection and neither knows the pool nor the container."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    async def deposit(self, name: str, amount: int) -> None:
        change = "UPDATE account SET balance = balance + ? WHERE name = ?"
        await self.conn.execute(change, (amount, name))

    async def balance(self, name: str) -> int:
        query = "SELECT balance FROM account WHERE name = ?"
        balance: int = await self.conn.fetch_val(query, (name,))
        return balance


class Transfers:
    """More of it, made of the first; both work on one connection within a scope."""

    def __init__(self, conn: Connection, accounts: Accounts) -> None:
        self.conn = conn
        self.accounts = accounts

    async def transfer(self, payer: str, payee: str, amount: int) -> None:
        async with self.conn.transaction():
            await self.accounts.deposit(payer, -amount)
            await self.accounts.deposit(payee, amount)


def make_provider(pool: ConnectionPool) -> Provider:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(pool.provide)
    provider.provide(Accounts)
    provider.provide(Transfers)
    return provider


async def main(database: Path) -> None:
    async with ConnectionPool(sqlite3, database, max_size=3, isolation_level="IMMEDIATE") as pool:
        await pool.execute("CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER)")
        await pool.execute_many("INSERT INTO account VALUES (?, ?)", [("Ada", 50), ("Bob", 0)])
        container = make_async_container(make_provider(pool))

        async def handle_request() -> None:
            async with container() as request:
                transfers = await request.get(Transfers)
                await transfers.transfer("Ada", "Bob", 1)

        await asyncio.gather(*(handle_request() for _ in range(20)))

        async with container() as request:
            accounts = await request.get(Accounts)
            for name in ("Ada", "Bob"):
                print(f"{name} has {await accounts.balance(name)}")
        await container.close()
        print(f"20 requests, {pool.stats().created} connections, {pool.stats().in_use} in use")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder, "container.db")))
