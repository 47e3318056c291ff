"""Transactions: all or nothing, nested, by hand, and never left to the next borrower."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from support.databases import Database
from support.lines import begun, written
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]


@pytest.mark.needs("transactions")
async def test_a_transaction_commits_on_success_and_rolls_back_on_an_error(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute(database.inserts(1))
        assert written(database) == []
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as conn:
            await conn.execute(database.inserts(2))
            raise ZeroDivisionError
    async with pool.connection() as conn:
        async with conn.transaction():
            await conn.executemany(database.sql("INSERT INTO wares VALUES (?, ?)"), [(3, "three")])
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(database.inserts(4))
                raise ZeroDivisionError
        assert written(database) == [1, 3]


@pytest.mark.needs("transactions")
async def test_a_transaction_inside_of_another_is_a_savepoint(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    if not subject.has("savepoints"):
        async with pool.transaction() as conn:
            await conn.execute(database.inserts(1))
            with pytest.raises(database.errors, match="savepoints"):
                await conn.transaction().start()
        assert written(database) == [1], "the error costs nothing"
        return
    async with pool.transaction() as conn:
        await conn.execute(database.inserts(1))
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(database.inserts(2))
                async with conn.transaction():
                    await conn.execute(database.inserts(3))
                raise ZeroDivisionError
        async with conn.transaction():
            await conn.execute(database.inserts(4))
            with pytest.raises(database.errors):
                async with conn.transaction():
                    await conn.execute(database.inserts(1))
    assert written(database) == [1, 4]


@pytest.mark.needs("transactions")
async def test_commit_and_rollback_end_what_a_statement_has_begun(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        for n, end in ((1, conn.commit), (2, conn.rollback), (3, conn.commit)):
            await begun(database, conn)
            await conn.execute(database.inserts(n))
            assert n not in written(database)
            await end()
            await conn.rollback()  # where nothing is open, it does nothing
        assert written(database) == [1, 3]


@pytest.mark.needs("transactions")
async def test_a_transaction_ends_also_what_was_begun_before_it(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        await begun(database, conn)
        await conn.execute(database.inserts(1))
        async with conn.transaction():
            await conn.execute(database.inserts(2))
        assert written(database) == [1, 2]
        await begun(database, conn)
        await conn.execute(database.inserts(3))
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                raise ZeroDivisionError
        assert written(database) == [1, 2]


@pytest.mark.needs("transactions")
@pytest.mark.parametrize("cleanup", ["rollback", "reset", None])
async def test_nothing_uncommitted_reaches_the_next_borrower(
    database: Database, pools: Pools, cleanup: Any
) -> None:
    pool = pools(max_size=1, cleanup=cleanup)
    async with pool.connection() as conn:
        await begun(database, conn)
        await conn.execute(database.inserts(1))
    async with pool.connection() as conn:
        await conn.transaction().start()
        await conn.execute(database.inserts(2))
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert written(database) == []
    if cleanup is None:  # unknown means closed
        assert (pool.stats().created, pool.stats().discarded) == (3, 2)


@pytest.mark.needs("transactions")
@pytest.mark.parametrize("by", ["the pool", "the block", "the return"])
async def test_without_a_cleanup_only_what_is_known_to_be_clean_is_lent_again(
    database: Database, subject: Subject, pools: Pools, by: str
) -> None:
    pool = pools(max_size=1, **({"cleanup": None} if by == "the pool" else {}))

    @asynccontextmanager
    async def lent() -> AsyncIterator[Any]:
        if by == "the return":
            conn = await pool.get()
            yield conn
            await pool.put(conn, cleanup=None)
        else:
            options: dict[str, Any] = {"cleanup": None} if by == "the block" else {}
            async with pool.connection(**options) as conn:
                yield conn

    async with lent():
        pass
    for n, end in enumerate(("commit", "rollback")):
        async with lent() as conn:
            await begun(database, conn)
            await conn.execute(database.inserts(n))
            await getattr(conn, end)()
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    async with lent() as conn:
        await conn.fetch_val("SELECT id FROM wares")
        await conn.transaction().start()
        await conn.execute(database.inserts(2))
    assert (pool.size, pool.stats().discarded) == (0, 1), "unknown means closed"
    async with lent() as conn:
        assert await conn.fetch_val("SELECT max(id) FROM wares") == 0
        await conn.commit()
    assert written(database) == [0]
    assert pool.stats().created == 2


@pytest.mark.parametrize("cleanup", ["rollback", "reset", None])
async def test_the_next_borrower_sees_what_was_written_meanwhile(
    database: Database, pools: Pools, cleanup: Any
) -> None:
    pool = pools(max_size=1, cleanup=cleanup)
    async with pool.connection() as conn:
        assert await conn.fetch_all("SELECT id FROM wares") == []
    database.change(database.inserts(1))
    assert await pool.fetch_val("SELECT id FROM wares") == 1


async def test_a_return_with_nothing_open_costs_no_statement(
    database: Database, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pools(max_size=1)
    driver: Any = pool._driver
    original, calls = driver.rollback, []

    def rollback(raw: Any) -> Any:
        calls.append(raw)
        return original(raw)

    monkeypatch.setattr(driver, "rollback", rollback)
    await pool.fetch_val(database.select(1))
    async with pool.connection():
        pass
    async with pool.connection() as conn:
        await conn.fetch_val(database.select(1))
        await conn.commit()
    async with pool.transaction() as conn:
        await conn.execute(database.inserts(1))
    assert calls == []
    async with pool.connection() as conn:
        await begun(database, conn)
        await conn.execute(database.inserts(2))
    assert len(calls) == 1
    assert pool.stats().created == 1
