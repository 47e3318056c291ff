"""A connection that is found lost beside its borrower's own statements retires the others, too."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import Fake, NativeFake, check_invariants, settle, virtual_time

Use = Callable[[Fake, ConnectionPool], Awaitable[None]]


async def on_return(fake: Fake, pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.fetch_all("SELECT n")


async def after_a_failed_statement(fake: Fake, pool: ConnectionPool) -> None:
    fake.fetch.once(fake.ProgrammingError("division by zero"))
    with pytest.raises(fake.ProgrammingError, match="division by zero"):
        await pool.fetch_all("SELECT n")


async def after_a_failed_commit(fake: Fake, pool: ConnectionPool) -> None:
    fake.commit.once(fake.OperationalError("deferred constraint"))
    with pytest.raises(fake.OperationalError, match="deferred constraint"):
        async with pool.transaction() as conn:
            await conn.fetch_all("SELECT n")


@pytest.mark.parametrize("use", [on_return, after_a_failed_statement, after_a_failed_commit])
@pytest.mark.parametrize("kind", [Fake, NativeFake])
@virtual_time
async def test_a_rollback_that_finds_the_connection_lost_retires_all_the_others(
    kind: type[Fake], use: Use
) -> None:
    fake = kind()
    async with fake.pool(max_size=3) as pool:
        leases = [await pool.get() for _ in range(3)]
        for conn in leases:
            await pool.put(conn)
        fake.rollback.once(fake.Lost("gone"))
        await use(fake, pool)
        await settle()
        assert (pool.size, fake.open) == (0, 0)
        assert pool.stats().closed == 3
        check_invariants(pool)
        assert await pool.fetch_val("SELECT n") == 1


@virtual_time
async def test_a_late_close_of_a_cursor_that_finds_the_connection_lost_does_so_too() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        one, other = await asyncio.gather(pool.get(), pool.get())
        await pool.put(other)
        one.autocommit = True
        cursor = await one.execute("SELECT n")
        await cursor.fetchall()
        await one.rollback()
        fake.cursor_close.once(fake.Lost("gone"))
        await pool.put(one)
        await settle()
        assert (pool.size, fake.open) == (0, 0)
        check_invariants(pool)
