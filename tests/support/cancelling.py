"""Trials that the cancelling of every driver has to stand, on its real database."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import frozen
from support.activity import Activity
from support.databases import Database
from support.servers import Server

__all__ = [
    "cancelled_at_any_moment",
    "cancelled_behind_a_reset",
    "cancelled_without_an_answer",
]

_CANCEL_REQUEST = b"\0\0\0\x10\x04\xd2\x16\x2e"
_RESET = struct.pack("ii", 1, 0)  # for SO_LINGER


async def cancelled_at_any_moment(activity: Activity, pool: ConnectionPool, times: int) -> None:
    """Cancel short statements; each time the next one on the connection gets its own answer."""
    async with pool.connection() as conn:
        for number in range(times):
            doomed = asyncio.create_task(conn.fetch_one(activity.saying("doomed", 0.005)))
            await asyncio.sleep(number % 16 / 4000)
            doomed.cancel()
            await asyncio.wait([doomed])
            if not doomed.cancelled():
                assert doomed.result() == activity.said("doomed")
            await conn.rollback()
            token = f"token {number}"
            assert await conn.fetch_one(activity.saying(token, 0)) == activity.said(token)
    assert pool.stats().cancelled > times / 10
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    check_invariants(pool)


async def cancelled_without_an_answer(
    activity: Activity, server: Server, *, hung_up: bool = True
) -> None:
    """Cancel a statement while the server is stopped: the loop goes on, the permit comes back.

    Where the driver does not tell its socket, so that it cannot be `hung_up`, not until the
    server has gone on.
    """
    loop = asyncio.get_running_loop()
    slow = activity.saying("nobody asks", 1.5)  # since it may be that nobody can cancel it
    async with activity.pool(max_size=1, cancel_grace=0.5) as pool:
        await pool.fetch_val(activity.database.select(1))  # a connect may run statements, too
        task = asyncio.create_task(pool.fetch_one(slow))
        await activity.begins()
        with frozen(server):
            task.cancel()
            longest, began = 0.0, loop.time()
            last = began
            while not pool.free and loop.time() - began < (20 if hung_up else 1.5):
                await asyncio.sleep(0.01)
                longest, last = max(longest, loop.time() - last), loop.time()
            assert pool.free == int(hung_up)
        assert longest < 1.0, "a call that held the GIL would have stopped the loop until the end"
        assert await pool.fetch_val(activity.database.select(7)) == 7
    await activity.ends(connections=0)


async def cancelled_behind_a_reset(database: Database, server: Server, **changes: str) -> None:
    """Cancel where each request is told to be lost and arrives all the same, when it is too late.

    What comes next must not be hit.
    """
    async with _resetting_cancels(server) as port:
        there = replace(database, arguments={**database.arguments, **changes, "port": port})
        async with there.opened(max_size=1) as pool:
            assert await pool.fetch_val("SELECT 1") == 1
            task = asyncio.create_task(pool.fetch_val("SELECT 1 FROM pg_sleep(0.3)"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
            assert await pool.fetch_val("SELECT 7 FROM pg_sleep(1)") == 7
            assert pool.stats().discarded == 1


@asynccontextmanager
async def _resetting_cancels(server: Server) -> AsyncIterator[int]:
    """A port before a PostgreSQL server, where requests to cancel come late and are reset."""
    links: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links.add(asyncio.current_task())
        first = await reader.read(65536)
        from_server, to_server = await asyncio.open_connection(server.host, server.port)
        if first.startswith(_CANCEL_REQUEST):
            used = writer.get_extra_info("socket")
            used.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            await asyncio.sleep(0.4)
        to_server.write(first)
        await asyncio.gather(_carry(reader, to_server), _carry(from_server, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.gather(*(link for link in links if link is not None))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()
