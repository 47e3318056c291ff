"""Reports: stats, dump, messages and reprs, and what they never show."""

import asyncio
import dataclasses
import inspect
import sqlite3
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionPool, PoolStats, PoolTimeout, _stacks
from asyncdbpool.stats import Counters
from asyncdbpool.testing import NEVER, Fake, settle, virtual_time


@virtual_time
async def test_stats_are_frozen_and_complete() -> None:
    fake = Fake()
    async with fake.pool(name="orders", min_size=1, max_size=4) as pool:
        stats = pool.stats()
        names = {field.name for field in dataclasses.fields(stats)}
        assert names == set(PoolStats.__slots__)
        assert {field.name for field in dataclasses.fields(Counters)} < names
        assert (stats.name, stats.min_size, stats.max_size) == ("orders", 1, 4)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.size = 3  # type: ignore[misc] # the point


@virtual_time
async def test_size_is_the_sum_of_its_parts_in_every_phase() -> None:
    fake = Fake()
    async with fake.pool(max_size=4, check="always") as pool:

        def parts() -> tuple[int, int, int]:
            stats = pool.stats()
            assert stats.size == stats.idle + stats.in_use + stats.connecting == pool.size
            return stats.idle, stats.in_use, stats.connecting

        fake.connect.once(NEVER)
        getting = asyncio.create_task(pool.get())
        await settle()
        assert parts() == (0, 0, 1)
        fake.connect.release()
        conn = await getting
        assert parts() == (0, 1, 0)
        await conn.execute("INSERT")
        fake.rollback.once(NEVER)
        putting = asyncio.create_task(pool.put(conn))
        await settle()
        assert parts() == (0, 1, 0), "being cleaned counts as in use"
        fake.rollback.release()
        await putting
        assert parts() == (1, 0, 0)
        fake.ping.once(NEVER)
        getting = asyncio.create_task(pool.get())
        await settle()
        assert parts() == (0, 1, 0), "so does being checked"
        fake.ping.release()
        conn = await getting
        fake.close.once(NEVER)
        putting = asyncio.create_task(conn.discard())
        await settle()
        assert parts() == (0, 1, 0), "and being closed"
        fake.close.release()
        await putting
        assert parts() == (0, 0, 0)


@virtual_time
async def test_every_timeout_counts() -> None:
    async with Fake().pool(max_size=1) as pool, pool.connection():
        waiters = [asyncio.create_task(pool.get(timeout=1)) for _ in range(3)]
        await asyncio.wait(waiters)
        assert all(isinstance(waiter.exception(), PoolTimeout) for waiter in waiters)
        assert pool.stats().timeouts == 3


@virtual_time
async def test_counters_and_sums() -> None:
    fake = Fake()
    fake.connect.once(2.0)
    async with fake.pool(max_size=1) as pool:
        async with pool.connection():
            waiter = asyncio.create_task(pool.get())
            await asyncio.sleep(3)
        await pool.put(await waiter)
        stats = pool.stats()

        assert (stats.acquired, stats.created, stats.closed) == (2, 1, 0)
        assert stats.connect_seconds == pytest.approx(2)
        assert stats.wait_seconds == pytest.approx(2 + 3)
        assert stats.use_seconds == pytest.approx(3)
        await pool.close()
        assert (pool.stats().closed, pool.stats().acquired) == (1, 2)


@virtual_time
async def test_a_timeout_names_figures_holders_and_where_they_took_it() -> None:
    fake = Fake()
    async with fake.pool(name="orders", max_size=4, timeout=5) as pool:

        async def hold(statement: str) -> None:
            async with pool.connection() as conn:
                await conn.execute(statement, ("s33kr1t",))
                await asyncio.sleep(60)

        holders = [asyncio.create_task(hold(f"SELECT {n}"), name=f"holder {n}") for n in range(4)]
        await asyncio.sleep(2)
        with pytest.raises(PoolTimeout) as caught:
            await pool.get()
        message = str(caught.value)

        assert message.startswith(
            "pool 'orders': no connection within 5 s; "
            "size 4 of max_size 4: in use 4, idle 0, connecting 0; waiting 1"
        )
        for n in range(3):
            assert f"oldest lease {n + 1}: task 'holder {n}': held for 7.0 s" in message
            assert f"last statement 'SELECT {n}'" in message
        assert "holder 3" not in message, "three tell enough"
        assert message.count("in test_a_timeout_names_figures") + message.count(".hold") >= 3
        assert "s33kr1t" not in message
        for holder in holders:
            holder.cancel()
        await asyncio.wait(holders)


@virtual_time
async def test_dump_tells_who_holds_what() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        assert pool.dump() == []
        conn = await pool.get()
        await asyncio.sleep(3)
        (info,) = pool.dump()
        assert info.age == pytest.approx(3)
        assert (info.statement, info.returning) == (None, False)
        assert "test_dump_tells_who_holds_what" in info.stack
        assert "asyncdbpool" not in info.stack, "the machinery's frames say nothing"
        await conn.execute("INSERT")
        assert pool.dump()[0].statement == "INSERT"

        fake.rollback.once(NEVER)
        putting = asyncio.create_task(pool.put(conn))
        await settle()
        (info,) = pool.dump()
        assert info.returning
        assert "is being returned" in str(info)
        fake.rollback.release()
        await putting
        assert pool.dump() == []


@virtual_time
async def test_dump_shows_where_a_connection_was_taken_not_where_its_task_is_now() -> None:
    async with Fake().pool() as pool:

        async def taken_here() -> Connection:
            return await pool.get()

        conn = await taken_here()
        (info,) = pool.dump()
        assert "taken_here" in info.stack
        await pool.put(conn)


@virtual_time
async def test_dump_names_the_task_that_used_the_connection_last() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await asyncio.create_task(pool.get(), name="resolver")
        user = asyncio.create_task(conn.fetch_val("SELECT n"), name="user")
        await asyncio.wait([user])
        assert pool.dump()[0].task == "user"
        del user
        await settle()
        assert pool.dump()[0].task == "?"
        await pool.put(conn)


@pytest.mark.parametrize("where", ["keyword", "positional", "credentials"])
@virtual_time
async def test_nothing_ever_shows_a_password(where: str, caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    dsn = "host=db password=s33kr1t"
    options = {"credentials": lambda: {"password": "s33kr1t"}}
    if where == "keyword":
        pooled = fake.pool(password="s33kr1t", user="app", timeout=1, min_size=1, max_size=1)
    elif where == "positional":
        pooled = fake.pool(dsn, timeout=1, min_size=1, max_size=1)
    else:
        pooled = fake.pool(**options, timeout=1, min_size=1, max_size=1)
    texts: list[object] = []
    with caplog.at_level("DEBUG", "asyncdbpool"):
        async with pooled as pool:
            conn = await pool.get()
            with pytest.raises(PoolTimeout) as caught:
                await asyncio.create_task(pool.get())
            texts += [pool, conn, pool.stats(), pool.dump(), caught.value]
            assert pool._engine is not None
            texts += [pool._engine.stock.arguments, *pool._engine.stock.records]
            fake.connect.always(fake.OperationalError(f"cannot connect: {dsn}"))
            await conn.discard()
            await asyncio.sleep(5)
    shown = "\n".join(map(repr, texts)) + caplog.text
    assert "connect failed" in shown
    assert "s33kr1t" not in shown


@virtual_time
async def test_a_repr_tells_state_and_figures() -> None:
    fake = Fake()
    async with fake.pool(name="orders", max_size=3) as pool:
        assert repr(pool).startswith("<ConnectionPool 'orders', not open: size 0 of 3")
        conn = await pool.get()
        assert repr(pool).endswith("open: size 1 of 3, idle 0, in use 1, waiting 0>")
        assert repr(conn) == "<Connection of pool 'orders', lent>"
        await pool.put(conn)
        await pool.close()
        assert "'orders', closed: size 0 of 3" in repr(pool)


@virtual_time
async def test_read_only_properties() -> None:
    fake = Fake()
    async with fake.pool(min_size=1, max_size=3) as pool:
        await pool.open()
        conn = await pool.get()
        figures = (pool.min_size, pool.max_size, pool.size, pool.idle, pool.waiting, pool.free)
        assert figures == (1, 3, 1, 0, 0, 2)
        assert pool.module is fake
        for name in ("module", "name", "min_size", "max_size", "size", "idle", "waiting", "free"):
            with pytest.raises(AttributeError):
                setattr(pool, name, 5)
        await pool.put(conn)


@virtual_time
async def test_pools_without_a_name_get_one_each() -> None:
    fake = Fake()
    async with fake.pool() as one, fake.pool() as two:
        assert one.name != two.name
        assert one.name.startswith("Fake-")


@virtual_time
async def test_a_connection_borrowed_outside_of_any_task_has_an_unknown_holder() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.put(await pool.get())
        borrowed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                pool.get().send(None)  # with an idle connection it does not suspend
            except StopIteration as end:
                borrowed.set_result(end.value)

        asyncio.get_running_loop().call_soon(callback)
        conn = await borrowed
        assert pool.dump()[0].task == "?"
        assert await conn.fetch_val("SELECT n") == 1
        await pool.put(conn)


@virtual_time
async def test_a_connection_used_outside_of_any_task_has_an_unknown_holder() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        assert pool.dump()[0].task != "?"
        statement = conn.fetch_val("SELECT n")
        asyncio.get_running_loop().call_soon(statement.send, None)
        await settle()
        assert (fake.statements, pool.dump()[0].task) == (["SELECT n"], "?")
        statement.close()
        await pool.put(conn)


def test_a_default_shows_as_words_in_a_signature() -> None:
    assert "timeout: float | Default | None = <the pool's own>" in str(
        inspect.signature(ConnectionPool.get)
    ).replace("'", "").replace("pools own", "pool's own")


@virtual_time
async def test_a_repr_tells_whether_the_pool_is_open() -> None:
    async with Fake().pool(name="orders") as pool:
        assert "'orders', not open:" in repr(pool)
        await pool.open()
        assert "'orders', open:" in repr(pool)
        await pool.close()
        assert "'orders', closed:" in repr(pool)


@virtual_time
async def test_a_function_that_runs_is_told_by_its_name() -> None:
    class Job:
        def __call__(self, raw: Any) -> None:
            raw.cursor().execute("DELETE")

    def prune(raw: Any) -> None:
        Job()(raw)

    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        for work, name in ((prune, prune.__qualname__), (Job(), "Job")):
            fake.execute.once(NEVER)
            running = asyncio.create_task(pool.run(work))
            await settle()
            assert [lease.statement for lease in pool.dump()] == [name]
            fake.execute.release()
            await running


@virtual_time
async def test_tasks_bear_the_name_of_their_pool() -> None:
    fake = Fake()
    fake.connect.always(NEVER)
    async with fake.pool(name="orders", min_size=1) as pool:

        def names() -> set[str]:
            return {task.get_name() for task in asyncio.all_tasks()}

        opening = asyncio.create_task(pool.open())
        await settle()
        assert {"orders: open", "orders: connect"} <= names()
        fake.connect.open()
        await opening
        conn = await pool.get()
        closing = asyncio.create_task(pool.close())
        await settle()
        assert "orders: close" in names()
        await pool.put(conn)
        await closing


@virtual_time
async def test_a_one_shot_that_runs_is_told_by_its_statement() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        fake.execute.once(NEVER)
        running = asyncio.create_task(pool.fetch_all("SELECT n", (1,)))
        await settle()
        assert [lease.statement for lease in pool.dump()] == ["SELECT n"]
        fake.execute.release()
        await running


@virtual_time
async def test_the_dump_tells_whose_one_shot_runs() -> None:
    fake = Fake()
    fake.execute.once(5.0)
    async with fake.pool() as pool:
        task = asyncio.create_task(pool.fetch_val("SELECT n"), name="asks for n")
        await asyncio.sleep(1)
        (held,) = pool.dump()
        assert (held.task, held.statement) == ("asks for n", "SELECT n")
        await task


def test_a_pool_without_a_name_is_named_after_its_module() -> None:
    assert ConnectionPool(sqlite3, ":memory:").name.startswith("sqlite3")


def test_what_is_given_twice_is_named_as_a_list() -> None:
    twice: dict[str, Any] = {"timeout_a": 1, "timeout_b": 2}
    with pytest.raises(TypeError, match=r"in connect_kwargs: timeout_a, timeout_b$"):
        ConnectionPool(sqlite3, connect_kwargs=twice, **twice)


def test_of_a_deep_stack_the_innermost_frames_are_remembered() -> None:
    def go_down(left: int) -> _stacks.Stack:
        return go_down(left - 1) if left else _stacks.capture(skip=0)

    stack = go_down(500)
    assert 10 <= len(stack) < 500
    assert {code.co_name for code, _ in stack} == {"go_down"}
