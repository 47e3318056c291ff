"""Functions and hooks that get the driver's own connection: `run`, `setup`, `check`, `cleanup`."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from support.activity import Activity
from support.databases import Database
from support.lines import written
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]


@pytest.mark.needs("transactions")
async def test_a_function_gets_the_driver_s_own_connection_and_does_all_or_nothing(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    await pool.run(subject.saying(database.inserts(1), database.inserts(2)))
    with pytest.raises(database.errors):
        await pool.run(subject.saying(database.inserts(3), database.inserts(1)))
    assert written(database) == [1, 2]
    async with pool.connection() as conn:
        async with conn.transaction():
            await conn.run(subject.saying(database.inserts(4)))
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.run(subject.saying(database.inserts(5)))
                raise ZeroDivisionError
        with pytest.raises(database.errors):
            await conn.run(subject.saying("SELECT nothing FROM wares"))
    assert written(database) == [1, 2, 4]


async def test_setup_check_and_cleanup_are_given_the_driver_s_own_connection(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(
        max_size=1,
        setup=subject.saying(database.inserts(0)),
        check=subject.saying("UPDATE wares SET id = id"),  # whose transaction is rolled back
        cleanup=subject.saying("UPDATE wares SET id = id + 1", commit=True),
    )
    for n in range(3):
        async with pool.connection():
            assert written(database) == [n]
    async with pool.connection(cleanup=subject.saying("SELECT nothing FROM wares")):
        pass
    assert (pool.stats().created, pool.stats().discarded) == (1, 1)
    assert pool.size == 0, "a cleanup that raises discards the connection"


async def test_a_check_that_fails_costs_the_connection_and_not_its_borrower(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1, check=subject.saying(database.inserts(1)))
    for created in (1, 2):
        async with pool.connection():
            assert pool.stats().created == created
        database.change("DELETE FROM wares", database.inserts(1))


async def test_a_setup_that_raises_surfaces_as_it_is_and_leaves_nothing(
    database: Database, subject: Subject, pools: Pools, activity: Activity
) -> None:
    pool = pools(setup=subject.saying("SELECT nothing FROM wares"))
    with pytest.raises(database.errors, match=r"(?i)nothing"):
        await pool.get()
    assert (pool.size, pool.free) == (0, pool.max_size)
    await activity.ends(connections=0)


async def test_functions_of_the_wrong_kind_are_refused_by_name(
    database: Database, pool: ConnectionPool
) -> None:
    def plain(_raw: Any) -> None: ...
    async def later(_raw: Any) -> None: ...

    wrong: Any = plain if database.native else later
    kind = "is a plain function" if database.native else "is a coroutine function"
    for option in ("setup", "check", "cleanup"):
        with pytest.raises(TypeError, match=f"^{option} {kind}"):
            database.pool(**{option: wrong})
    with pytest.raises(TypeError, match=f"^cleanup {kind}"):
        pool.connection(cleanup=wrong)
    with pytest.raises(TypeError, match=f"^cleanup {kind}"):
        pool.transaction(cleanup=wrong)
    with pytest.raises(TypeError, match=f"^fn {kind}"):
        await pool.run(wrong)
    async with pool.connection() as conn:
        with pytest.raises(TypeError, match=f"^cleanup {kind}"):
            await pool.put(conn, cleanup=wrong)
        with pytest.raises(TypeError, match=f"^fn {kind}"):
            await conn.run(wrong)
        assert await conn.fetch_val(database.select(1)) == 1


async def test_a_reset_takes_back_what_was_done_to_the_session(
    subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1)
    change, show = subject.like.setting
    conn = await pool.get()
    before = await conn.fetch_val(show)
    await conn.execute(change)
    assert await conn.fetch_val(show) != before
    await pool.put(conn, cleanup="reset")
    assert await pool.fetch_val(show) == before
