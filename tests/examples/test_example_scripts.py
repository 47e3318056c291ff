"""The examples that run from top to bottom print what they promise, and no warning."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from dishka import make_async_container

from asyncdbpool import Connection, ConnectionPool
from support.examples import EXAMPLES, load, run_script

SCRIPTS = {
    "quickstart": """\
        over 30: [('Ada',), ('Grace',)]
        Ada is 36
        Grace is 45
        Linus is 21
        a returned connection refuses to work
        rolled back (UNIQUE constraint failed: user.name): Ada is still 36
        20 queries on 3 connections
    """,
    "by_hand": """\
        first: ('milk',)
        the rest: [('bread',)]
        after put(): pool 'notes': this connection was returned; *
        connections opened: 1, now open: 0
    """,
    "container": """\
        Ada has 30
        Bob has 20
        20 requests, 3 connections, 0 in use
    """,
}
TESTED_ELSEWHERE = {"demo", "fastapi_app", "aiohttp_app", "fastapi_postgres"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_does_what_it_says(name: str, tmp_path: Path) -> None:
    ended = run_script(name, env={"TMPDIR": str(tmp_path)})
    assert ended.stderr == ""
    assert ended.returncode == 0
    expected = [line.strip() for line in SCRIPTS[name].splitlines() if line.strip()]
    for line, promise in zip(ended.stdout.splitlines(), expected, strict=True):
        assert line.startswith(promise[:-1]) if promise.endswith("*") else line == promise
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_tested_and_listed() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == SCRIPTS.keys() | TESTED_ELSEWHERE
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in names if f"({name}.py)" not in readme] == []


async def test_a_scope_of_the_container_is_a_loan(tmp_path: Path) -> None:
    example: Any = load("container")
    async with ConnectionPool(sqlite3, tmp_path / "accounts.db", max_size=2) as pool:
        container = make_async_container(example.make_provider(pool))
        async with container() as one, container() as other:
            transfers = await one.get(example.Transfers)
            conn = await one.get(Connection)
            assert transfers.conn is transfers.accounts.conn is conn
            assert await other.get(Connection) is not conn
            assert pool.stats().in_use == 2
        assert not conn
        assert pool.stats().in_use == 0
        await container.close()


async def test_a_scope_that_fails_gives_its_connection_back_all_the_same(tmp_path: Path) -> None:
    example: Any = load("container")
    async with ConnectionPool(sqlite3, tmp_path / "accounts.db", max_size=1) as pool:
        await pool.execute("CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER)")
        await pool.execute("INSERT INTO account VALUES ('Ada', 50)")
        container = make_async_container(example.make_provider(pool))
        with pytest.raises(LookupError, match="on the way"):
            async with container() as request:
                accounts = await request.get(example.Accounts)
                await accounts.deposit("Ada", -50)
                raise LookupError("on the way")
        async with container() as request:
            assert await (await request.get(example.Accounts)).balance("Ada") == 50
        assert pool.stats().in_use == 0
        await container.close()
