"""The pool in one page: one-shots, a lease, a transaction, the limit, and what happens after."""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from asyncdbpool import ConnectionPool, ConnectionReturned


async def main(database: Path) -> None:
    # Every argument that is not an option of the pool goes to sqlite3.connect().
    async with ConnectionPool(sqlite3, database, max_size=3) as pool:
        # One-shots: borrow, run, commit and return, in one call.
        await pool.execute("CREATE TABLE user (name TEXT UNIQUE, age INTEGER)")
        people = [("Ada", 36), ("Grace", 45), ("Linus", 21)]
        await pool.execute_many("INSERT INTO user (name, age) VALUES (?, ?)", people)
        print("over 30:", await pool.fetch_all("SELECT name FROM user WHERE age > ?", (30,)))

        # A lease: the connection is yours inside of the block. What is not committed is undone.
        async with pool.connection() as conn:
            async for name, age in await conn.execute("SELECT name, age FROM user ORDER BY name"):
                print(f"{name} is {age}")
        try:
            await conn.execute("SELECT 1")
        except ConnectionReturned:
            print("a returned connection refuses to work")

        # A transaction: all of it, or nothing. The driver's own errors come through.
        try:
            async with pool.transaction() as conn:
                await conn.execute("UPDATE user SET age = age + 1")
                await conn.execute("INSERT INTO user (name, age) VALUES ('Ada', 5)")
        except sqlite3.IntegrityError as error:
            age = await pool.fetch_val("SELECT age FROM user WHERE name = 'Ada'")
            print(f"rolled back ({error}): Ada is still {age}")

        # Twenty tasks at once, on three connections at most.
        query = "SELECT count(*) FROM user WHERE age > ?"
        counts = await asyncio.gather(*(pool.fetch_val(query, (age,)) for age in range(20)))
        print(f"{len(counts)} queries on {pool.stats().created} connections")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder, "quickstart.db")))
