"""Limits: order among those who wait, how many may, and who waits for himself."""

import asyncio
import gc
import os
import weakref

import pytest

from asyncdbpool import Connection, PoolDeadlock, PoolTimeout, TooManyWaiters
from asyncdbpool._line import Line, Turn
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time


@virtual_time
async def test_waiters_are_served_in_the_order_they_came() -> None:
    fake = Fake()
    served: list[int] = []

    async def borrow(number: int) -> None:
        async with pool.connection():
            served.append(number)
            await asyncio.sleep(1)

    async with fake.pool(max_size=3) as pool:
        await asyncio.gather(*(borrow(number) for number in range(30)))
        check_invariants(pool)
    assert served == list(range(30))
    assert fake.most == 3


@virtual_time
async def test_nobody_who_comes_later_overtakes_a_waiter_in_the_tick_of_the_hand_over() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        await settle()

        await pool.put(lent)
        late = asyncio.create_task(pool.get())
        await settle()

        assert waiter.done()
        assert not late.done()
        await pool.put(await waiter)
        await pool.put(await late)


@virtual_time
async def test_a_task_that_borrows_again_at_once_goes_to_the_end_of_the_line() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        turns: list[str] = []

        async def greedy(name: str) -> None:
            for _ in range(3):
                async with pool.connection():
                    turns.append(name)

        await asyncio.gather(greedy("a"), greedy("b"))
    assert turns == ["a", "b"] * 3


@virtual_time
async def test_more_waiters_than_max_waiting_fail_at_once() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, max_waiting=2, name="orders") as pool:
        lent = await pool.get()
        waiting = [asyncio.create_task(pool.get()) for _ in range(2)]
        await settle()
        began = now()
        with pytest.raises(
            TooManyWaiters, match=r"'orders': 2 tasks wait .* size 1 of max_size 1"
        ):
            await asyncio.create_task(pool.get())

        assert now() == began
        assert pool.waiting == 2
        await pool.put(lent)
        for task in waiting:
            await pool.put(await task)


@virtual_time
async def test_max_waiting_zero_still_lends_what_is_free() -> None:
    fake = Fake()
    async with fake.pool(max_size=2, max_waiting=0) as pool:
        first, second = await asyncio.gather(pool.get(), pool.get())
        with pytest.raises(TooManyWaiters):
            await pool.get()
        await pool.put(first)
        await pool.put(second)


@virtual_time
async def test_a_cancelled_waiter_counts_no_more_against_max_waiting() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, max_waiting=1) as pool:
        lent = await pool.get()
        gone = asyncio.create_task(pool.get())
        await settle()
        gone.cancel()
        await asyncio.wait([gone])
        waiter = asyncio.create_task(pool.get())
        await settle()
        assert not waiter.done()
        await pool.put(lent)
        await pool.put(await waiter)


@virtual_time
@pytest.mark.parametrize("idle", [False, True], ids=["new", "idle"])
async def test_a_nested_connection_on_a_pool_of_one_is_a_deadlock_at_once(idle: bool) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        if idle:
            await pool.put(await pool.get())
        async with pool.connection():
            began = now()
            with pytest.raises(PoolDeadlock, match="test_a_nested_connection") as caught:
                async with pool.connection():
                    pass
            assert now() == began
            assert "oldest lease 1" in str(caught.value)
            assert "return it first" in str(caught.value)
            check_invariants(pool)


@virtual_time
@pytest.mark.parametrize("idle", [False, True], ids=["new", "idle"])
async def test_a_nested_get_by_hand_is_a_deadlock_after_half_the_timeout(idle: bool) -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=8) as pool:
        if idle:
            await pool.put(await pool.get())
        conn = await pool.get()
        began = now()
        with pytest.raises(PoolDeadlock):
            await pool.get()
        assert now() - began == pytest.approx(4)
        assert pool.stats().timeouts == 0
        await pool.put(conn)


@virtual_time
async def test_who_waits_behind_a_deadlock_waits_on() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=8) as pool:
        proceed = asyncio.Event()

        async def holder() -> None:
            conn = await pool.get()
            patient = asyncio.create_task(pool.get(timeout=100))
            await settle()
            with pytest.raises(PoolDeadlock):
                await pool.get()
            await proceed.wait()
            await pool.put(conn)
            await pool.put(await patient)

        holding = asyncio.create_task(holder())
        while pool.waiting < 2:
            await settle()
        began = now()
        with pytest.raises(PoolTimeout):
            await pool.get()
        assert now() - began == pytest.approx(8)
        proceed.set()
        await holding


@virtual_time
async def test_each_is_suspected_of_a_deadlock_after_half_of_his_own_wait() -> None:
    fake = Fake()
    async with fake.pool(max_size=2, timeout=8) as pool:
        conns: list[Connection] = []
        ends: list[float] = []

        async def holds_and_waits(delay: float, timeout: float) -> None:
            conns.append(await pool.get())
            await asyncio.sleep(delay)
            with pytest.raises(PoolDeadlock):
                await pool.get(timeout=timeout)
            ends.append(now() - began)

        began = now()
        others = [asyncio.create_task(holds_and_waits(*how)) for how in ((0, 100), (3, 8))]
        await settle()
        with pytest.raises(PoolDeadlock):
            await pool.get()
        assert now() - began == pytest.approx(4, abs=0.1)
        await asyncio.sleep(2)
        assert not ends
        while len(ends) < 1:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.5)
        assert ends == [pytest.approx(7, abs=0.6)]
        for conn in conns:
            await pool.put(conn)
        others[0].cancel()
        await asyncio.gather(*others, return_exceptions=True)


@virtual_time
async def test_a_nested_get_by_hand_is_a_deadlock_at_once_where_the_first_was_used() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        await conn.execute("SELECT n")
        began = now()
        with pytest.raises(PoolDeadlock):
            await pool.get()
        assert now() == began
        await pool.put(conn)


@virtual_time
async def test_a_nested_get_without_a_deadline_is_a_deadlock_in_the_end() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=None) as pool:
        conn = await pool.get()
        with pytest.raises(PoolDeadlock):
            await pool.get()
        await pool.put(conn)


@virtual_time
async def test_two_tasks_that_wait_for_each_other_are_a_deadlock() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:

        async def nested() -> None:
            async with pool.connection():
                await asyncio.sleep(1)
                async with pool.connection():
                    pass

        results = await asyncio.gather(nested(), nested(), return_exceptions=True)

        # The first one gives way, and the other gets what it wanted.
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "PoolDeadlock"]


@virtual_time
async def test_a_producer_that_hands_connections_to_other_tasks_is_not_reported() -> None:
    fake = Fake()
    queue: asyncio.Queue[Connection] = asyncio.Queue()

    async def consume() -> None:
        while True:
            conn = await queue.get()
            await conn.execute("SELECT n")
            await asyncio.sleep(20)
            await pool.put(conn)
            queue.task_done()

    async with fake.pool(max_size=2) as pool:
        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        for _ in range(6):  # each waits for a return by somebody else
            queue.put_nowait(await pool.get())
        await queue.join()
        for consumer in consumers:
            consumer.cancel()
        assert pool.stats().acquired == 6


@virtual_time
async def test_a_waiting_holder_with_a_statement_under_way_is_no_deadlock() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=4) as pool, pool.connection() as conn:
        fake.execute.once(3.0)
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        with pytest.raises(
            PoolTimeout
        ):  # by the time of doubt the statement has still been running
            await pool.get(timeout=4)
        await statement


@virtual_time
async def test_a_holder_that_has_gone_is_no_deadlock_but_a_timeout() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=2) as pool:
        conn = await asyncio.create_task(pool.get())
        with pytest.raises(PoolTimeout, match=r"task '\?'"):
            await pool.get()
        await pool.put(conn)


@virtual_time
async def test_a_hung_statement_keeps_its_permit_while_its_thread_is_busy() -> None:
    fake = Fake()
    async with fake.pool(max_size=2, timeout=1) as pool:
        fake.execute.once(NEVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.execute("UPDATE t"), 1)
        await asyncio.sleep(60)

        assert (pool.stats().in_use, pool.free) == (1, 1)
        async with pool.connection():
            with pytest.raises(PoolTimeout, match="in use 2"):
                await asyncio.create_task(pool.get())
        fake.execute.release()
        await settle()
        assert (pool.stats().in_use, pool.free) == (0, 2)


@pytest.mark.skipif("MUTANT_UNDER_TEST" in os.environ, reason="mutmut puts frames in between")
@pytest.mark.parametrize("shot", [True, False])
@virtual_time
async def test_the_error_of_who_waited_in_vain_lives_no_longer_than_its_reader(
    shot: bool,
) -> None:
    async with Fake().pool(max_size=1, timeout=1.0) as pool:
        conn = await asyncio.create_task(pool.get())
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(PoolTimeout) as caught:
                await (pool.fetch_val("SELECT n") if shot else pool.get())
            error = weakref.ref(caught.value)
            del caught
            await asyncio.sleep(0)
            assert error() is None
        finally:
            gc.enable()
        await pool.put(conn)


class Patient:
    """Lets everybody wait."""

    def refusal(self, since: float, timeout: float | None) -> None:
        """Refuse nobody."""

    def next_look(self, since: float, timeout: float | None) -> float:
        """Look again much later."""
        return now() + 1000


@virtual_time
async def test_an_empty_line_sets_no_timer() -> None:
    loop = asyncio.get_running_loop()
    line = Line(loop, Patient(), timeout=None)
    line.rearm()
    line.join(Turn(loop, None))
    line.rearm()
    assert line.waiting == 1
    line.disband(ArithmeticError)
