"""The interpreter around the pool: its end, closed loops, and interrupts on worker threads."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned
from asyncdbpool.testing import NEVER, Fake, FakeDriver, check_invariants, settle, virtual_time
from asyncdbpool.testing.invariants import join_threads


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own that shows every warning."""
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def make(fake: Fake, **options: Any) -> ConnectionPool:
    return ConnectionPool(fake, driver=FakeDriver(fake), **options)


@pytest.mark.parametrize("state", ["idle", "lent", "busy"])
def test_an_unclosed_pool_warns_and_the_process_exits(state: str) -> None:
    answer = run(
        f"""
        import asyncio, sqlite3, time
        from asyncdbpool import ConnectionPool

        def main():
            pool = ConnectionPool(sqlite3, ":memory:", name="forgotten")

            async def use():
                if {state!r} == "idle":
                    print(await pool.fetch_val("SELECT 42"))
                else:
                    conn = await pool.get()
                    if {state!r} == "busy":
                        asyncio.ensure_future(conn.run(lambda raw: time.sleep(3600)))
                        await asyncio.sleep(0.1)
                    print(42)

            asyncio.run(use())

        main()
        """
    )
    assert (answer.returncode, answer.stdout) == (0, "42\n"), answer.stderr
    assert "ResourceWarning" in answer.stderr
    assert "forgotten" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_pool_in_a_module_that_ends_does_not_keep_the_process() -> None:
    answer = run(
        """
        import asyncio, sqlite3
        from asyncdbpool import ConnectionPool

        pool = ConnectionPool(sqlite3, ":memory:")
        print(asyncio.run(pool.fetch_val("SELECT 42")))
        """
    )
    assert (answer.returncode, answer.stdout) == (0, "42\n"), answer.stderr


def test_a_closed_pool_leaves_no_warning() -> None:
    answer = run(
        """
        import asyncio, sqlite3
        from asyncdbpool import ConnectionPool

        async def main():
            async with ConnectionPool(sqlite3, ":memory:", min_size=2) as pool:
                print(await pool.fetch_val("SELECT 42"))

        asyncio.run(main())
        """
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "42\n", "")


def test_a_second_run_with_the_same_pool_starts_afresh_with_a_warning() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)
    assert asyncio.run(pool.fetch_val("SELECT n")) == 1
    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        assert asyncio.run(pool.fetch_val("SELECT n")) == 1

    async def end() -> None:
        with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
            await pool.open()
        await pool.close()

    asyncio.run(end())
    join_threads(pool)
    fake.check(pool)


def test_a_pool_closed_in_each_run_needs_no_warning() -> None:
    fake = Fake()
    pool = make(fake, min_size=1)

    async def work() -> object:
        async with pool:
            return await pool.fetch_val("SELECT n")

    assert [asyncio.run(work()) for _ in range(3)] == [1, 1, 1]
    fake.check(pool)


def test_a_pool_left_without_connections_is_opened_on_the_next_loop_without_a_warning() -> None:
    fake = Fake()
    pool = make(fake)
    fake.connect.once(fake.Error("no"))
    with pytest.raises(fake.Error):
        asyncio.run(pool.get())
    assert asyncio.run(_use_and_close(pool)) == 1
    fake.check(pool)


async def _use_and_close(pool: ConnectionPool) -> object:
    try:
        return await pool.fetch_val("SELECT n")
    finally:
        await pool.close()


def test_a_loop_closed_with_a_connection_lent() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)
    conn: Connection = asyncio.run(pool.get())

    async def again() -> None:
        with pytest.warns(ResourceWarning, match="its connections are dropped"):
            other = await pool.get()
        with pytest.raises(ConnectionReturned, match="given up"):
            await conn.execute("SELECT n")
        assert await other.fetch_val("SELECT n") == 1
        await pool.put(other)
        await pool.close()

    asyncio.run(again())
    join_threads(pool)
    fake.check(pool)


def test_a_loop_closed_while_a_statement_runs() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)

    async def interrupted() -> None:
        fake.execute.once(NEVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.execute("UPDATE t"), 0.05)

    asyncio.run(interrupted())
    assert fake.open == 1
    fake.execute.release()
    join_threads(pool)  # the thread has found the loop closed, and has cleaned up by itself
    assert fake.open == 0
    with pytest.warns(ResourceWarning):
        assert asyncio.run(_use_and_close(pool)) == 1
    fake.check(pool)


def test_a_loop_closed_while_a_connect_runs() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)

    async def interrupted() -> None:
        fake.connect.once(NEVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.get(), 0.05)

    asyncio.run(interrupted())
    fake.connect.release()
    join_threads(pool)
    assert (fake.open, len(fake.connections)) == (0, 1)
    assert asyncio.run(_use_and_close(pool)) == 1
    fake.check(pool)


def test_a_loop_closed_during_a_close() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)

    async def interrupted() -> Connection:
        conn = await pool.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.close(), 0.05)
        return conn

    conn = asyncio.run(interrupted())
    assert conn, "it has not been taken away yet"

    async def again() -> None:
        with pytest.warns(ResourceWarning):
            await pool.open()
        await pool.close()

    asyncio.run(again())
    join_threads(pool)
    fake.check(pool)


def test_a_loop_that_is_closed_during_a_close_without_ending_its_tasks() -> None:
    fake = Fake()
    pool = make(fake, max_size=1)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: None)  # a task of the loop's was still pending

    async def interrupted() -> Connection:
        conn = await pool.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.close(), 0.05)
        return conn

    conn = loop.run_until_complete(interrupted())
    loop.close()

    async def again() -> None:
        with pytest.warns(ResourceWarning, match="its connections are dropped"):
            await pool.open()
        assert not conn
        await pool.close()

    asyncio.run(again())
    join_threads(pool)
    fake.check(pool)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("step", ["connect", "execute", "fetch", "commit"])
@virtual_time
async def test_an_interrupt_on_a_worker_comes_out_of_the_call_that_waits_for_it(
    step: str, error: type[BaseException]
) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        getattr(fake, step).once(error())
        # In a task it would go through the loop as well, as asyncio has it.
        with pytest.raises(error):
            await pool.fetch_all("SELECT n")
        await settle()
        check_invariants(pool)
        assert pool.free == 1
        assert await pool.fetch_val("SELECT n") == 1


Spoil = Callable[[], None]


async def connects(pool: ConnectionPool, spoil: Spoil) -> None:
    spoil()
    await pool.get()


async def pings(pool: ConnectionPool, spoil: Spoil) -> None:
    await pool.put(await pool.get())
    spoil()
    await pool.get()


async def executes(pool: ConnectionPool, spoil: Spoil) -> None:
    async with pool.connection() as conn:
        spoil()
        await conn.execute("SELECT n")


async def rolls_back(pool: ConnectionPool, spoil: Spoil) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT")
        spoil()


async def discards(pool: ConnectionPool, spoil: Spoil) -> None:
    async with pool.connection() as conn:
        spoil()
        await conn.discard()


async def leaves_a_cursor(pool: ConnectionPool, spoil: Spoil) -> None:
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        await conn.commit()
        spoil()
    assert not cursor


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    ("use", "step"),
    [
        (connects, "connect"),
        (pings, "ping"),
        (executes, "execute"),
        (rolls_back, "rollback"),
        (discards, "close"),
        (leaves_a_cursor, "cursor_close"),
    ],
)
def test_an_interrupt_that_nobody_waits_for_comes_out_of_the_loop(
    use: Callable[[ConnectionPool, Spoil], Coroutine[Any, Any, None]],
    step: str,
    error: type[BaseException],
) -> None:
    fake = Fake()
    pool = make(fake, max_size=1, check="always")
    started, proceed = threading.Event(), threading.Event()

    def late() -> None:
        started.set()
        proceed.wait(5)
        raise error

    async def give_up() -> None:
        user = asyncio.create_task(use(pool, lambda: getattr(fake, step).once(late)))
        while not started.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)
        user.cancel()
        await asyncio.wait([user])

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: None)  # asyncio reports it as well
    try:
        loop.run_until_complete(give_up())
        loop.call_soon(proceed.set)
        with pytest.raises(error):
            loop.run_until_complete(asyncio.sleep(5))
        loop.run_until_complete(pool.close())
        for task in asyncio.all_tasks(loop):  # the sleep, and a task that let the error through
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    fake.check(pool)
