"""os.fork() with an open pool: the child leaves the parent's connections alone and has its own."""

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Mapping

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned
from asyncdbpool._wire import Wire
from asyncdbpool.testing import Fake, NativeFake
from support.activity import Activity
from support.fixtures import with_every_driver

PROGRAM = """
    import asyncio, gc, importlib, json, os, sys, threading, traceback
    from asyncdbpool import ConnectionPool, ConnectionReturned

    asked = json.loads(sys.argv[1])
    pool = ConnectionPool(importlib.import_module(asked["module"]), **asked["arguments"])
    loop = asyncio.new_event_loop()


    async def ask_for_many():
        rows = await asyncio.gather(*(pool.fetch_val(f"SELECT {n}") for n in range(30)))
        assert rows == list(range(30)), rows


    async def live_in_the_child(inherited):
        assert (pool.size, pool.free, pool.closed) == (0, pool.max_size, False), pool
        assert not pool.dump()
        try:
            await inherited.fetch_val("SELECT 1")
        except ConnectionReturned as error:
            assert "was borrowed by the parent process" in str(error), error
        else:
            raise AssertionError("the child has used a connection of its parent's")
        await ask_for_many()
        assert 1 <= pool.size <= pool.max_size, pool
        await pool.close()


    def parent(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)


    async def begin():
        await ask_for_many()
        lent, busy = await pool.get(), await pool.get()
        await lent.execute("DROP TABLE IF EXISTS forks")
        await lent.execute("CREATE TABLE forks (n INTEGER)")
        await lent.commit()
        transaction = lent.transaction()
        await transaction.__aenter__()
        await lent.execute("INSERT INTO forks VALUES (1)")
        running = asyncio.ensure_future(busy.fetch_all(asked["slow"]))
        await asyncio.sleep(0.1)
        return lent, busy, transaction, running


    async def end(lent, busy, transaction, running):
        (row,) = await running
        assert tuple(row) == tuple(asked["answer"]), row
        await lent.execute("INSERT INTO forks VALUES (2)")
        await transaction.__aexit__(None, None, None)
        await pool.put(lent)
        await pool.put(busy)
        assert await pool.fetch_val("SELECT sum(n) FROM forks") == 3
        await ask_for_many()
        assert (pool.free, pool.stats().discarded) == (pool.max_size, 0), pool.stats()
        await pool.close()


    threading.Thread(target=loop.run_forever, daemon=True).start()
    lent, busy, transaction, running = parent(begin())
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:

            try:
                asyncio.run(live_in_the_child(lent))
            except BaseException:
                traceback.print_exc()
                sys.exit(1)
            del lent, busy, transaction, running
            gc.collect()
            sys.exit(0)  # with all that an interpreter does at its end
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    parent(end(lent, busy, transaction, running))
    loop.call_soon_threadsafe(loop.stop)
    print("whole")
"""


def run(asked: Mapping[str, object]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@with_every_driver
def test_parent_and_children_go_on_with_connections_of_their_own(activity: Activity) -> None:
    database = activity.database
    # SQLite's own locks are held while a statement runs, and nobody gives them back in a child.
    seconds = 0 if database.name == "sqlite3" else 0.6
    asked = {
        "module": database.name,
        "arguments": {**database.arguments, "max_size": 3},
        "slow": activity.saying("still the parent", seconds),
        "answer": activity.said("still the parent"),
    }
    answer = run(asked)
    assert (answer.returncode, answer.stdout) == (0, "whole\n"), answer.stderr
    assert "Error" not in answer.stderr, answer.stderr
    assert "never closed" not in answer.stderr, answer.stderr


def test_what_is_the_parents_is_of_no_use_and_never_freed() -> None:
    fake = NativeFake()
    with asyncio.Runner() as runner:
        pool = ConnectionPool(fake, driver=fake.driver(), name="orders")
        conn = runner.run(pool.get())
        raw = weakref.ref(fake.connections[0])
        pool._disown()  # as a child does
        with pytest.raises(
            ConnectionReturned,
            match="'orders': this connection was borrowed by the parent process; a proxy",
        ):
            runner.run(conn.fetch_val("SELECT n"))
    del fake, pool, conn
    gc.collect()
    assert raw() is not None, "a driver's connection that is freed may say goodbye"


async def test_a_pool_that_is_closed_has_nothing_to_disown() -> None:
    pool = ConnectionPool(Fake())
    pool._disown()
    assert (pool.size, pool.free) == (0, pool.max_size)
    async with pool:
        assert await pool.fetch_val("SELECT n") == 1


def test_a_socket_is_severed_in_its_own_place_only() -> None:
    near, far = socket.socketpair()
    wire, other = Wire(near.fileno()), Wire(near.fileno())
    fileno = near.detach()
    wire.sever()
    assert os.read(fileno, 1) == b"", "it is dead"
    os.close(fileno)
    other.sever()  # the number is free, or somebody else's
    Wire(None).sever()
    far.close()
