"""The code in the README and in docs/ compiles, and what is marked to run does what it says."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import httpx
import MySQLdb
import pytest
from aiohttp.test_utils import TestClient, TestServer

from asyncdbpool import ConnectionPool, DatabaseConnector
from support.access import login
from support.documents import PAGES, README, ROOT, Block, blocks
from support.servers import MariaDBServer, PostgresServer

pymysql: Any = import_module("pymysql")  # comes with aiomysql; has no types
RELIABILITY = ROOT / "docs" / "reliability.md"
PYTHON = [block for page in PAGES for block in blocks(page)]
MARKS = {"", "runs", "runs on mariadb", "runs on postgres"}


@pytest.fixture
async def namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """Where blocks run: a module of their own in an empty folder; the pools left are closed."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("a_page_of_the_documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield vars(module)
    for value in tuple(vars(module).values()):
        if isinstance(value, (ConnectionPool, DatabaseConnector)):
            await value.close()


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_block_of_python_compiles(block: Block) -> None:
    block.compiled()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_mark_is_one_that_the_tests_know(page: Path) -> None:
    assert {block.mark for block in blocks(page)} <= MARKS


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, mark="runs")], ids=lambda page: page.name
)
async def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, namespace: dict[str, Any]
) -> None:
    for block in blocks(page, mark="runs"):
        await block.run(namespace)


async def test_the_test_that_reliability_shows_passes(namespace: dict[str, Any]) -> None:
    (block,) = blocks(RELIABILITY, mark="runs")
    await block.run(namespace)
    (test,) = (value for name, value in namespace.items() if name.startswith("test_"))
    await asyncio.to_thread(test)


async def test_the_web_applications_of_the_readme_answer(namespace: dict[str, Any]) -> None:
    async with ConnectionPool(sqlite3, "shop.db") as shop:
        await shop.execute("CREATE TABLE users (name TEXT)")
        await shop.execute("INSERT INTO users VALUES ('Ada')")
    applications = {
        word: block
        for block in blocks(README, mark="runs")
        for word in ("fastapi", "aiohttp")
        if f"from {word} import" in block.code
    }

    await applications["fastapi"].run(namespace)
    transport = httpx.ASGITransport(app=namespace["app"])
    async with (
        namespace["lifespan"](namespace["app"]),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        assert (await client.get("/users")).json() == 1
        assert namespace["pool"].idle == 1

    await applications["aiohttp"].run(namespace)
    async with TestClient(TestServer(namespace["app"])) as visitor:
        assert await (await visitor.get("/users")).json() == 1


async def test_the_classic_example_runs(
    mariadb: MariaDBServer, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the address and the credentials of the README are replaced."""
    connect = MySQLdb.connect
    asked: list[dict[str, Any]] = []

    def connect_here(**kwargs: Any) -> Any:
        asked.append(kwargs)
        here = {"host": mariadb.host, "port": mariadb.port}
        return connect(**kwargs | here | {"user": mariadb.user, "passwd": mariadb.password})

    monkeypatch.setattr(MySQLdb, "connect", connect_here)
    classic, many_hosts = blocks(README, mark="runs on mariadb")

    await classic.run(namespace)
    assert (asked[0]["host"], asked[0]["user"], asked[0]["passwd"]) == ("localhost", "root", "")
    assert not namespace["conn"]
    assert len(namespace["row"]) == 1
    await namespace["pool"].close()

    await many_hosts.run(namespace)
    assert asked[1]["host"] == "db.example.com"
    assert (asked[1]["user"], asked[1]["database"]) == ("app", "shop")
    assert namespace["now"].year >= 2026


async def test_the_native_example_runs(
    postgres: PostgresServer, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncpg.connect
    asked: list[Any] = []

    async def connect_here(dsn: str, **kwargs: Any) -> Any:
        asked.append(dsn)
        return await connect(**login(postgres), **kwargs)

    monkeypatch.setattr(asyncpg, "connect", connect_here)
    (native,) = blocks(README, mark="runs on postgres")
    await native.run(namespace)
    assert asked == ["postgresql://app@localhost/shop"]
    assert namespace["total"] == 3
    assert namespace["record"][0] == 100


async def test_the_driver_of_the_guide_works(
    mariadb: MariaDBServer, namespace: dict[str, Any]
) -> None:
    (guide,) = blocks(README.parent / "docs" / "drivers.md", mark="runs on mariadb")
    await guide.run(namespace)
    pool = ConnectionPool(
        pymysql,
        driver=namespace["PyMySQLDriver"](pymysql),
        host=mariadb.host,
        port=mariadb.port,
        user=mariadb.user,
        password=mariadb.password,
        database=mariadb.database,
        max_size=2,
        check="always",
    )
    async with pool:
        async with pool.connection() as conn:
            await conn.execute("CREATE TEMPORARY TABLE t (n INTEGER)")
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (1)")
                with pytest.raises(ZeroDivisionError):
                    async with conn.transaction():
                        await conn.execute("INSERT INTO t VALUES (2)")
                        raise ZeroDivisionError
            assert await conn.fetch_all("SELECT n FROM t") == [(1,)]
            await conn.autocommit(True)
        async with pool.connection() as conn:
            assert await conn.get_autocommit() is False, "a borrower's setting was undone"
        async with pool.connection() as conn, pool.connection() as other:
            killed = await conn.fetch_val("SELECT connection_id()")
            retired = await other.fetch_val("SELECT connection_id()")
            await other.execute(f"KILL {killed}")
            with pytest.raises(pymysql.OperationalError):
                await conn.execute("SELECT 1")
        assert pool.idle == 0, "one lost connection has retired both"
        assert await pool.fetch_val("SELECT connection_id()") not in {killed, retired}
