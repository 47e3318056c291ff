"""What the pools of a DatabaseConnector share: so many connections, first come, first served."""

import asyncio
import random

import pytest

from asyncdbpool import DatabaseConnector, PoolTimeout
from support.access import eventually
from support.counting import Counting, connector


@pytest.fixture
def driver() -> Counting:
    return Counting()


async def test_the_caps_hold_under_load_and_everybody_is_served(driver: Counting) -> None:
    rng = random.Random(random.getrandbits(32))  # noqa: S311 - seeded by pytest-randomly
    options = {"max_size": 3, "max_per_host": 4, "max_total": 7, "min_size": 1}
    async with connector(driver, **options) as dc:

        async def work(number: int) -> int:
            pool = dc.get(rng.choice("abc"), rng.choice(["x", "y", "z"]))
            if number % 3:
                return int(await pool.fetch_val("SELECT ?", (number,)))
            async with pool.connection(timeout=120) as conn:
                await asyncio.sleep(rng.choice([0, 0, 0.002]))
                if number % 7 == 0:
                    await conn.discard()
                    return number
                return int(await conn.fetch_val("SELECT ?", (number,)))

        tasks = [asyncio.create_task(work(number)) for number in range(900)]
        doomed = set(rng.sample(tasks, 90))
        for task in doomed:
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.5), task.cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (task, result) in enumerate(zip(tasks, done, strict=True)):
            assert result == number or (task in doomed and task.cancelled())

        assert driver.most_in_all <= 7
        assert max(driver.most.values()) <= 4
        await eventually(lambda: not any(s.in_use + s.connecting for s in dc.stats().values()))
        assert len(dc) == 9
        for stats in dc.stats().values():
            assert stats.size == stats.idle
            assert stats.waiting == 0
        assert sum(stats.size for stats in dc.stats().values()) == driver.open.total() <= 7
        await asyncio.gather(*(pool.fetch_val("SELECT 1") for pool in dc.values()))
    assert driver.open.total() == 0


async def test_an_idle_connection_of_one_pool_makes_room_for_a_busy_sibling(
    driver: Counting,
) -> None:
    async with connector(driver, max_total=2) as dc:
        a, b, c = dc.get("a"), dc.get("b"), dc.get("c")
        await a.fetch_val("SELECT 1")
        await b.fetch_val("SELECT 1")
        async with c.connection():
            assert (a.size, b.size, c.size) == (0, 1, 1), "the one idle the longest went"
            async with c.connection():
                assert (a.size, b.size, c.size) == (0, 0, 2)
                with pytest.raises(PoolTimeout, match="pool 'a'"):
                    await a.get(timeout=0.05)
        assert driver.most_in_all == 2


async def test_a_cap_of_one_host_leaves_the_others_alone(driver: Counting) -> None:
    async with connector(driver, max_per_host=1) as dc:
        async with dc.connection("a", "shop"):
            with pytest.raises(PoolTimeout):
                await dc.get("a", "stock").get(timeout=0.05)
            async with dc.connection("b", "shop"), dc.connection("c", "shop"):
                assert driver.open == {"a": 1, "b": 1, "c": 1}
        async with dc.connection("a", "stock"):
            assert driver.open["a"] == 1


async def test_a_lent_connection_is_never_taken_away_for_a_sibling(driver: Counting) -> None:
    async with connector(driver, max_total=1) as dc:
        async with dc.connection("a") as conn:
            waiter = asyncio.create_task(dc.get("b").fetch_val("SELECT 2"))
            await eventually(lambda: dc["b", None].waiting == 1)
            await asyncio.sleep(0.05)
            assert await conn.fetch_val("SELECT 1") == 1
        assert await waiter == 2
        assert driver.most_in_all == 1


async def test_who_comes_first_is_served_first_across_all_pools(driver: Counting) -> None:
    served: list[str] = []

    async def want(dc: DatabaseConnector, who: str) -> None:
        async with dc.connection(who[0]):
            served.append(who)
            await asyncio.sleep(0)

    async with connector(driver, max_total=1) as dc:
        order = ["b1", "a1", "c1", "c2", "a2", "b2", "b3", "a3"]
        tasks: list[asyncio.Task[None]] = []
        async with dc.connection("a"):
            for who in order:
                tasks.append(asyncio.create_task(want(dc, who)))
                await eventually(lambda: sum(p.waiting for p in dc.values()) == len(tasks))
        await asyncio.gather(*tasks)
        assert served == order
        assert driver.most_in_all == 1


async def test_a_cancelled_waiter_does_not_hold_up_the_other_pools(driver: Counting) -> None:
    async with connector(driver, max_total=1) as dc:
        async with dc.connection("a"):
            first = asyncio.create_task(dc.get("b").get())
            await eventually(lambda: dc["b", None].waiting == 1)
            second = asyncio.create_task(dc.get("c").fetch_val("SELECT 3"))
            await eventually(lambda: dc["c", None].waiting == 1)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        assert await second == 3
        assert await dc.get("b").fetch_val("SELECT 2") == 2
        assert await dc.get("a").fetch_val("SELECT 1") == 1
        assert driver.most_in_all == 1


async def test_a_waiter_that_timed_out_costs_the_cap_nothing(driver: Counting) -> None:
    async with connector(driver, max_total=2) as dc:
        async with dc.connection("a"), dc.connection("b"):
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    await dc.get("c").get(timeout=0.02)
        async with dc.connection("c"), dc.connection("c"):
            assert driver.open == {"a": 0, "b": 0, "c": 2}


async def test_a_connect_that_failed_gives_its_room_back(driver: Counting) -> None:
    async with connector(driver, max_total=2, max_per_host=1) as dc:
        driver.refusing = True
        for host in "abcabc":
            with pytest.raises(ConnectionRefusedError):
                await dc.get(host).get()
        driver.refusing = False
        async with dc.connection("a"), dc.connection("b"):
            assert driver.open.total() == 2


async def test_refilling_to_min_size_never_breaks_a_cap(driver: Counting) -> None:
    async with connector(driver, min_size=2, max_size=3, max_total=3) as dc:
        for host in "abc":
            assert await dc.get(host).fetch_val("SELECT 1") == 1
        for pool in dc.values():
            await pool.open()
            await pool.clear()
        await asyncio.gather(*(dc.get(host).fetch_val("SELECT 1") for host in "abc" * 20))
        async with dc.connection("a"), dc.connection("b"), dc.connection("c"):
            await asyncio.sleep(0.05)
            assert driver.open == {"a": 1, "b": 1, "c": 1}
        assert driver.most_in_all <= 3
    async with dc:  # which opens all of them at once
        assert driver.open.total() == 3
    assert driver.most_in_all <= 3


async def test_a_pool_that_lost_its_min_size_to_a_sibling_gets_it_back(driver: Counting) -> None:
    async with connector(driver, min_size=1, max_size=2, max_total=2, max_idle=0.1) as dc:
        a, b = dc.get("a"), dc.get("b")
        await a.open()
        async with b.connection(), b.connection():
            assert (a.size, b.size) == (0, 2)
        await eventually(lambda: (a.size, b.size) == (1, 1))  # once b's spare one has expired
        assert driver.most_in_all == 2


async def test_closing_one_pool_gives_its_room_to_the_others(driver: Counting) -> None:
    dc = connector(driver, max_total=1)
    conn = await dc.get("a").get()
    waiter = asyncio.create_task(dc.get("b").fetch_val("SELECT 2"))
    await eventually(lambda: dc["b", None].waiting == 1)
    closing = asyncio.create_task(dc["a", None].close())
    await asyncio.sleep(0)
    await conn.close()
    await closing
    assert await waiter == 2
    await dc.close()
    assert driver.open.total() == 0


async def test_free_knows_what_the_siblings_have_left(driver: Counting) -> None:
    async with connector(driver, max_size=2, max_total=2) as dc:
        a, b = dc.get("a"), dc.get("b")
        assert (a.free, b.free) == (2, 2)
        async with a.connection():
            assert (a.free, b.free) == (1, 1)
            async with a.connection():
                assert (a.free, b.free) == (0, 0)
        assert (a.free, b.free) == (2, 2), "idle ones make room"
