"""Upkeep: expiry, keepalive, refill and the report of leaks, all of them in virtual time."""

import asyncio
import gc
import logging
import weakref
from itertools import pairwise

import pytest

from asyncdbpool._upkeep import Upkeep
from asyncdbpool.testing import NEVER, Fake, now, settle, virtual_time


@virtual_time
async def test_idle_connections_above_min_size_are_closed_after_max_idle() -> None:
    fake = Fake()
    async with fake.pool(min_size=2, max_size=5, max_idle=60, check=None) as pool:
        conns = [await pool.get() for _ in range(5)]
        for conn in conns:
            await asyncio.sleep(10)
            await pool.put(conn)
        await asyncio.sleep(25)
        assert pool.idle == 4, "the one returned first has been idle for more than a minute"
        await asyncio.sleep(25)
        assert pool.idle == 2
        await asyncio.sleep(3000)
        assert pool.idle == 2
        assert pool.stats().discarded == 0, "they were good"


@virtual_time
async def test_an_old_connection_is_closed_while_idle_and_made_anew_for_min_size() -> None:
    fake = Fake()
    async with fake.pool(min_size=1, max_age=100) as pool:
        await pool.open()
        await asyncio.sleep(94)
        assert fake.connect.calls == 1
        await asyncio.sleep(7)
        assert (fake.connect.calls, pool.idle, fake.open) == (2, 1, 1)


@virtual_time
async def test_an_old_connection_is_closed_on_return_but_never_while_lent() -> None:
    fake = Fake()
    async with fake.pool(max_age=100) as pool:
        conn = await pool.get()
        await asyncio.sleep(1000)
        assert await conn.fetch_val("SELECT n") == 1
        await pool.put(conn)
        assert pool.size == 0


@virtual_time
async def test_a_connection_that_grows_old_in_its_cleanup_is_not_lent_to_who_waits() -> None:
    fake = Fake()
    fake.rollback.once(20.0)
    async with fake.pool(max_size=1, max_age=100, cancel_grace=60) as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        next_one = asyncio.create_task(pool.get(timeout=None))
        await asyncio.sleep(90)
        await pool.put(conn)
        await pool.put(await next_one)
        assert (fake.connect.calls, fake.open) == (2, 1)


@virtual_time
async def test_max_age_is_jittered_by_up_to_five_percent() -> None:
    fake = Fake()
    async with fake.pool(max_size=50, max_age=1000, max_idle=10_000) as pool:
        conns = await asyncio.gather(*(pool.get() for _ in range(50)))
        assert pool._engine is not None
        ages = [record.expires_at - record.made_at for record in pool._engine.stock.records]
        for conn in conns:
            await pool.put(conn)

        assert 950 <= min(ages) < max(ages) <= 1000
        assert len(set(ages)) > 25
        await asyncio.sleep(949)
        assert pool.idle == 50
        await asyncio.sleep(52)
        assert pool.idle == 0


@virtual_time
async def test_an_expired_connection_is_not_lent_even_if_upkeep_has_not_seen_it_yet() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, max_age=100, check=None) as pool:
        await pool.put(await pool.get())
        assert pool._engine is not None
        pool._engine.upkeep.stop()
        await asyncio.sleep(101)
        await pool.put(await pool.get())
        assert fake.connect.calls == 2


@virtual_time
async def test_keepalive_pings_what_is_idle_and_spares_what_was_used() -> None:
    fake = Fake()
    async with fake.pool(keepalive=30, check=None) as pool:
        used, unused = await pool.get(), await pool.get()
        await pool.put(unused)
        await pool.put(used)
        await asyncio.sleep(20)
        async with pool.connection():
            pass
        await asyncio.sleep(15)
        assert [raw.calls["ping"] for raw in fake.connections] == [0, 1]
        await asyncio.sleep(15 + 31)
        assert [raw.calls["ping"] for raw in fake.connections] == [2, 2]


@virtual_time
async def test_a_keepalive_does_not_keep_a_connection_from_its_max_idle() -> None:
    fake = Fake()
    async with fake.pool(keepalive=30, max_idle=100) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(101)
        assert (pool.size, fake.ping.calls) == (0, 3)


@virtual_time
async def test_a_keepalive_that_fails_retires_the_idle_and_refills() -> None:
    fake = Fake()
    async with fake.pool(keepalive=30, min_size=3) as pool:
        await pool.open()
        fake.ping.once(fake.Lost("gone"))
        await asyncio.sleep(31)
        assert (pool.idle, fake.connect.calls, fake.open) == (3, 6, 3)


@virtual_time
async def test_a_borrower_takes_a_connection_that_is_being_kept_alive() -> None:
    fake = Fake()
    async with fake.pool(keepalive=30, max_size=1, check=None) as pool:
        await pool.put(await pool.get())
        fake.ping.once(2.0)
        await asyncio.sleep(31)
        began = now()
        conn = await pool.get()
        assert now() - began == pytest.approx(1, abs=0.01)
        await pool.put(conn)


@virtual_time
async def test_a_failed_refill_is_tried_again_with_growing_delays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        await pool.open()
        fake.connect.always(fake.Lost("refused"))
        times: list[float] = []
        fake.connect.always(lambda: _refuse(fake, times))
        conn = await pool.get()
        with caplog.at_level(logging.WARNING, "asyncdbpool"):
            await conn.discard()
            await asyncio.sleep(200)
        gaps = [later - earlier for earlier, later in pairwise(times)]

        for gap, delay in zip(gaps, [1, 2, 4, 8, 16, 30, 30, 30], strict=False):
            assert delay / 2 <= gap <= delay + 0.01
        assert 8 <= len(gaps) <= 17
        assert "connect failed: Lost: refused" in caplog.text
        fake.connect.open()
        await asyncio.sleep(31)
        assert pool.idle == 1


def _refuse(fake: Fake, times: list[float]) -> None:
    from asyncdbpool.testing import Clock

    assert Clock.current is not None
    times.append(Clock.current.now)
    raise fake.Lost("refused")


@virtual_time
async def test_a_refill_that_works_again_starts_with_short_delays() -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        await pool.open()
        for _ in range(2):
            fake.connect.once(*[fake.Lost("refused")] * 3)
            began = now()
            await (await pool.get()).discard()
            while not pool.idle:  # noqa: ASYNC110 - virtual time is for free
                await asyncio.sleep(0.01)
            assert 3.5 <= now() - began <= 7.1


@virtual_time
async def test_a_waiter_does_not_wait_for_the_delay_of_the_refill() -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        await pool.open()
        fake.connect.once(fake.Lost("refused"))
        await (await pool.get()).discard()
        await settle()
        began = now()
        await pool.put(await pool.get())
        assert now() == began


@virtual_time
async def test_a_leak_is_reported_once_with_the_stack_that_took_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake()
    async with fake.pool(leak_timeout=10, name="orders") as pool:
        with caplog.at_level(logging.WARNING, "asyncdbpool"):
            conn = await pool.get()
            await conn.fetch_all("SELECT n", ("secret",))
            await asyncio.sleep(9)
            assert not caplog.records
            await asyncio.sleep(5)
            assert len(caplog.records) == 1
            await asyncio.sleep(100)
        assert len(caplog.records) == 1
        assert "pool 'orders': a lease may have leaked" in caplog.text
        assert "test_a_leak_is_reported_once" in caplog.text
        assert "SELECT n" in caplog.text
        assert "secret" not in caplog.text
        await pool.put(conn)


@virtual_time
async def test_what_is_returned_in_time_is_no_leak(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    async with fake.pool(leak_timeout=10) as pool:
        with caplog.at_level(logging.WARNING, "asyncdbpool"):
            for _ in range(5):
                async with pool.connection():
                    await asyncio.sleep(9)
        assert not caplog.records


@virtual_time
async def test_a_pool_that_has_nothing_to_keep_up_has_no_timer() -> None:
    fake = Fake()
    forever = float("inf")
    async with fake.pool(max_idle=forever, max_age=forever, check=None) as pool:
        await pool.put(await pool.get())
        assert pool._engine is not None
        assert pool._engine.upkeep._timer is None
        await asyncio.sleep(1e6)
        assert pool.idle == 1


@virtual_time
async def test_upkeep_keeps_no_pool_alive() -> None:
    fake = Fake()
    async with fake.pool(leak_timeout=10) as pool:
        await pool.put(await pool.get())
        assert pool._engine is not None
        engine = weakref.ref(pool._engine)
        upkeep = pool._engine.upkeep
    del pool
    gc.collect()
    assert engine() is None
    upkeep.tick()
    upkeep.arm()
    assert upkeep._timer is None


@virtual_time
async def test_a_connect_that_hangs_does_not_stop_the_upkeep() -> None:
    fake = Fake()
    async with fake.pool(min_size=2, keepalive=30) as pool:
        fake.connect.once(None, NEVER)
        await pool.put(await pool.get())
        await asyncio.sleep(100)
        assert (pool.idle, pool.stats().connecting, fake.ping.calls) == (1, 1, 3)
        fake.connect.release()
        await settle()
        assert pool.idle == 2


@virtual_time
async def test_a_keepalive_without_a_max_idle() -> None:
    fake = Fake()
    async with fake.pool(min_size=1, max_idle=0, keepalive=30) as pool:
        await pool.open()
        await asyncio.sleep(100)
        assert (pool.idle, fake.ping.calls, fake.connect.calls) == (1, 3, 1)


@pytest.mark.parametrize(
    ("options", "why"), [({"max_age": 10.0}, "max_age"), ({"max_idle": 10.0}, "max_idle")]
)
@virtual_time
async def test_an_idle_connection_that_goes_says_why(
    options: dict[str, float], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "asyncdbpool")
    async with Fake().pool(**options) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(30)
        assert pool.size == 0
    assert f"closing an idle connection: {why}\n" in caplog.text


@virtual_time
async def test_what_is_about_to_go_does_not_count_for_min_size() -> None:
    fake = Fake()
    async with fake.pool(min_size=2, max_size=4) as pool:
        await pool.open()
        fake.close.once(20.0, 20.0)
        clearing = asyncio.create_task(pool.clear())
        await settle()
        await pool.put(await pool.get())
        await settle()
        assert (pool.idle, fake.connect.calls) == (2, 4), "the others are still being closed"
        await clearing


@pytest.mark.parametrize("options", [{"keepalive": 10.0}, {"leak_timeout": 10.0}])
@virtual_time
async def test_upkeep_looks_when_something_is_due_and_not_all_the_time(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[float] = []
    tick = Upkeep.tick

    def counted(upkeep: Upkeep) -> None:
        ticks.append(now())
        tick(upkeep)

    monkeypatch.setattr(Upkeep, "tick", counted)
    async with Fake().pool(max_size=2, **options) as pool:
        async with pool.connection():
            await asyncio.sleep(5)
        async with pool.connection():
            await asyncio.sleep(9)
        await asyncio.sleep(30)
    assert 2 <= len(ticks) <= 9


@virtual_time
async def test_a_short_keepalive_is_kept() -> None:
    fake = Fake()
    async with fake.pool(keepalive=0.1) as pool:
        await pool.fetch_val("SELECT n")
        await asyncio.sleep(1.05)
        assert 8 <= fake.ping.calls <= 11


@virtual_time
async def test_a_pool_in_which_nothing_falls_due_has_no_timer() -> None:
    async with Fake().pool(max_idle=0, max_age=0) as pool:
        assert await pool.fetch_val("SELECT n") == 1
        assert pool.size == 0
