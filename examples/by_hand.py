"""Borrowing by hand, where no `async with` fits: every `get()` needs its `put()`."""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from asyncdbpool import ConnectionPool, ConnectionReturned


async def main(database: Path) -> None:
    pool = ConnectionPool(sqlite3, database, name="notes")  # connects to nothing yet
    try:
        conn = await pool.get()
        try:
            await conn.execute("CREATE TABLE note (text TEXT)")
            await conn.executemany("INSERT INTO note VALUES (?)", [("milk",), ("bread",)])
            await conn.commit()  # or put() rolls it back

            cursor = await conn.execute("SELECT text FROM note")
            print("first:", await cursor.fetchone())
            print("the rest:", await cursor.fetchall())
        finally:
            await pool.put(conn)

        try:
            await cursor.fetchone()
        except ConnectionReturned as error:
            print("after put():", error)

        conn = await pool.get()  # the same connection, lent anew
        await conn.discard()  # closes it instead, say because its session is beyond repair
        print(f"connections opened: {pool.stats().created}, now open: {pool.size}")
    finally:
        await pool.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder, "by_hand.db")))
