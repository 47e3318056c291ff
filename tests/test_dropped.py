"""What nobody holds any more: pools and leases that are dropped, on whatever thread."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned
from asyncdbpool.proxies import Connection, Cursor, NativeConnection
from asyncdbpool.testing import NEVER, Fake, FakeDriver, settle, virtual_time
from asyncdbpool.testing.invariants import join_threads, threads_of


def make(fake: Fake, **options: Any) -> ConnectionPool:
    return ConnectionPool(fake, driver=FakeDriver(fake), **options)


def on_another_thread(work: Callable[..., None], *args: Any) -> None:
    thread = threading.Thread(target=work, args=args)
    thread.start()
    thread.join()


def drop(holder: list[Any]) -> None:
    """Forget what a list holds, and whatever hangs together with it."""
    holder.clear()
    gc.collect()


def test_a_dropped_pool_warns_and_its_threads_close_its_connections() -> None:
    fake = Fake()
    with asyncio.Runner() as runner:
        pools = [make(fake, name="dropped")]
        runner.run(pools[0].fetch_val("SELECT n"))
        threads = threads_of(pools[0])
        with pytest.warns(ResourceWarning, match=r"'dropped'.* was never closed") as warned:
            drop(pools)
        assert isinstance(warned.pop(ResourceWarning).source, ConnectionPool)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert (fake.open, fake.violations) == (0, [])


def test_a_dropped_pool_without_connections_says_nothing() -> None:
    fake = Fake()
    with asyncio.Runner() as runner:
        pools = [make(fake, max_uses=1)]
        runner.run(pools[0].fetch_val("SELECT n"))
        runner.run(asyncio.sleep(0.05))
        join_threads(pools[0])
        drop(pools)
    assert fake.open == 0


def test_a_pool_whose_making_failed_is_dropped_without_a_word() -> None:
    with pytest.raises(TypeError):
        ConnectionPool(object())
    gc.collect()


@virtual_time
async def test_a_garbage_collected_lease_is_reclaimed_with_a_warning() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, name="orders") as pool:
        conns = [await pool.get()]
        await conns[0].execute("INSERT")
        with pytest.warns(ResourceWarning, match="'orders', lent> was dropped") as warned:
            drop(conns)
        assert isinstance(warned.pop(ResourceWarning).source, Connection)
        async with pool.connection() as conn:
            assert fake.connect.calls == 1
            assert not conn.in_transaction
        assert (pool.stats().reclaimed, pool.free) == (1, 1)


@pytest.mark.skipif("MUTANT_UNDER_TEST" in os.environ, reason="mutmut puts frames in between")
def test_warnings_point_at_the_line_that_dropped_the_thing() -> None:
    fake = Fake()
    pool = make(fake)
    things: list[Any] = [asyncio.run(pool.get()), pool]
    threads = threads_of(pool)
    del pool
    while things:
        with pytest.warns(ResourceWarning, match=r"was dropped|was never closed") as warned:
            del things[0]
        assert warned.pop(ResourceWarning).filename == __file__
    for thread in threads:
        thread.join(5)
    assert fake.open == 0


@virtual_time
async def test_a_lease_dropped_on_another_thread_is_reclaimed() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        holder = [await pool.get()]
        with pytest.warns(ResourceWarning):
            on_another_thread(drop, holder)
        await settle()
        assert (pool.idle, pool.stats().reclaimed) == (1, 1)


@virtual_time
async def test_a_lease_in_a_cycle_is_reclaimed() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        cycle: list[object] = [await pool.get()]
        cycle.append(cycle)
        del cycle
        with pytest.warns(ResourceWarning):
            gc.collect()
        await settle()
        assert pool.idle == 1


def test_a_lease_dropped_after_its_loop_does_no_harm() -> None:
    fake = Fake()
    pool = make(fake)
    conns = [asyncio.run(pool.get())]
    with pytest.warns(ResourceWarning, match="dropped without being returned"):
        drop(conns)
    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        assert asyncio.run(pool.fetch_val("SELECT n")) == 1
    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        asyncio.run(pool.close())
    join_threads(pool)
    fake.check(pool)


@virtual_time
async def test_a_lease_dropped_while_its_pool_closes_is_reclaimed_once() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conns = [await pool.get()]
        closing = asyncio.create_task(pool.close())
        await settle()
        with pytest.warns(ResourceWarning):
            drop(conns)
        await closing
        assert fake.open == 0


@virtual_time
async def test_a_task_that_ends_with_a_connection_in_its_hands_gives_it_back() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:

        async def careless() -> None:
            await pool.get()

        with pytest.warns(ResourceWarning):
            await asyncio.create_task(careless())
        await pool.put(await pool.get(timeout=1))


@virtual_time
async def test_nothing_of_a_used_pool_stays_in_memory() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.fetch_val("SELECT n")
        with pytest.raises(fake.Error):
            fake.execute.once(fake.Error("no"))
            await pool.fetch_val("SELECT n")
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None


@virtual_time
async def test_a_lease_dropped_in_the_tick_in_which_its_pool_takes_it_is_given_back_once() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conns = [await pool.get()]
        lease = conns[0]._lease
        with pytest.warns(ResourceWarning):
            drop(conns)
        lease.give_back(None)  # as close() does after its timeout
        await settle()
        assert (pool.idle, pool.stats().in_use) == (1, 0)


@virtual_time
async def test_the_timer_of_a_dropped_pool_does_no_harm() -> None:
    fake = Fake()
    pools = [make(fake, leak_timeout=10)]
    await pools[0].fetch_val("SELECT n")
    with pytest.warns(ResourceWarning, match="was never closed"):
        drop(pools)
    gc.collect()  # the recorded warning has held the pool until now
    await asyncio.sleep(1000)
    assert (fake.open, fake.violations) == (0, [])


@virtual_time
async def test_every_lease_that_is_reclaimed_counts() -> None:
    async with Fake().pool() as pool:
        for number in (1, 2):
            conns = [await pool.get()]
            with pytest.warns(ResourceWarning, match="was dropped"):
                drop(conns)
            await settle()
            assert pool.stats().reclaimed == number


def test_a_connection_whose_pool_was_given_up_says_so() -> None:
    fake = Fake()
    pool = make(fake)
    conn = asyncio.run(pool.get())

    async def reopen() -> None:
        with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
            await pool.open()
        await pool.close()

    asyncio.run(reopen())
    with pytest.raises(
        ConnectionReturned, match=": this connection is gone: its pool was given up; "
    ):
        conn.cursor()
    join_threads(pool)
    assert fake.open == 0


@virtual_time
async def test_a_cancel_keeps_no_answer_alive_nor_the_proxy_behind_it() -> None:
    fake = Fake(cancels=True)
    async with fake.pool(name="dropped") as pool:
        conns = [await pool.get()]
        fake.execute.once(NEVER)
        statement = asyncio.create_task(conns[0].fetch_all("SELECT n"))
        await settle()
        await conns[0].cancel()
        await asyncio.wait([statement])
        assert isinstance(statement.exception(), fake.Error)
        del statement
        with pytest.warns(ResourceWarning, match="dropped without being returned"):
            drop(conns)


@pytest.mark.parametrize("kind", [Connection, NativeConnection, Cursor])
def test_a_proxy_that_was_never_made_is_dropped_without_a_word(kind: type[Any]) -> None:
    proxies = [object.__new__(kind)]
    with pytest.raises(AttributeError):
        _ = proxies[0]._lease
    drop(proxies)


def test_who_waits_on_a_loop_that_is_closed_is_forgotten_without_a_word() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(pool.get())
    waiters = [loop.create_task(pool.get()), loop.create_task(pool.fetch_all("SELECT n"))]
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    drop(waiters)

    async def again() -> None:
        async with pool:
            await pool.fetch_all("SELECT n")

    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        asyncio.run(again())
    assert not conn
    join_threads(pool)
