"""DatabaseConnector: pools by host and database, with the credentials that each host wants."""

import asyncio
import functools
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg2
import pytest

from asyncdbpool import Connection, ConnectionPool, DatabaseConnector, PoolClosed, UnknownHost
from asyncdbpool.drivers import find_driver
from support.access import EACH_SERVER, connections, eventually, login, module_for, threads
from support.counting import Counting, connector
from support.servers import PostgresServer, Server

SECRET = "hunter2-hunter2"


@pytest.fixture
def driver() -> Counting:
    return Counting()


# ------------------------------------------------------------------------------------------------
# A mapping of (host, dbname) to pool


def test_a_connector_is_a_mapping_of_the_pools_asked_for(driver: Counting) -> None:
    dc = connector(driver)
    assert len(dc) == 0
    assert list(dc) == []
    a: object = "a"  # a host is no key, but may be asked for
    assert a not in dc

    shop, stock, plain = dc.get("a", "shop"), dc.get("a", "stock"), dc.get("b")
    assert dc.get("a", "shop") is dc["a", "shop"] is shop
    assert len({shop, stock, plain}) == len(dc) == 3
    assert list(dc) == [("a", "shop"), ("a", "stock"), ("b", None)]
    assert dict(dc.items()) == {("a", "shop"): shop, ("a", "stock"): stock, ("b", None): plain}
    assert list(dc.values()) == [shop, stock, plain]
    assert a in dc
    assert ("a", "shop") in dc
    assert ("a", "nothing") not in dc
    strangers: list[object] = ["c", "shop", ("c",), 7]
    assert not any(stranger in dc for stranger in strangers)
    with pytest.raises(KeyError):
        dc["c", "shop"]
    assert all(isinstance(pool, ConnectionPool) for pool in dc.values())
    assert driver.asked == [], "no I/O so far"


def test_pools_are_named_after_their_keys_and_show_no_password(driver: Counting) -> None:
    dc = DatabaseConnector(sqlite3, {"a": {"password": SECRET}}, driver=driver)
    assert dc.get("a", "shop").name == "a/shop"
    assert dc.get("a").name == "a"
    assert SECRET not in f"{dc!r} {dict(dc)} {dc.stats()}"
    assert "2 pools" in repr(dc)


async def test_connections_are_borrowed_by_host_and_database(driver: Counting) -> None:
    async with connector(driver) as dc:
        async with dc.connection("a", "shop") as conn:
            assert isinstance(conn, Connection)
            assert dc["a", "shop"].stats().in_use == 1
            assert await conn.fetch_val("SELECT 1") == 1
        async with dc.transaction("a", "shop") as conn:
            await conn.execute("CREATE TABLE t (n)")
        assert await dc.get("a", "shop").fetch_val("SELECT count(*) FROM t") == 0
        with pytest.raises(ValueError, match=r"^timeout must be 0 or more"):
            await dc.connection("a", timeout=-1).__aenter__()
        assert [dict(kwargs) for kwargs in driver.asked] == [{"host": "a", "database": "shop"}]


def test_an_unknown_host_is_told_which_hosts_there_are(driver: Counting) -> None:
    dc = DatabaseConnector(sqlite3, {"b": {"password": SECRET}, "a": {}}, driver=driver)
    for ask in (dc.get, dc.credentials_for, dc.connection, dc.transaction):
        with pytest.raises(UnknownHost, match=r"'nowhere' .* there are: 'a', 'b'$") as caught:
            ask("nowhere")
        assert isinstance(caught.value, LookupError)
        assert SECRET not in str(caught.value)
    assert len(dc) == 0
    with pytest.raises(UnknownHost, match="there are: none"):
        DatabaseConnector(sqlite3, {}, driver=driver).get("a")


# ------------------------------------------------------------------------------------------------
# Credentials


async def test_a_host_s_own_entry_comes_before_default(driver: Counting) -> None:
    entries = {"a": {"user": "alice"}, "default": {"user": "anybody"}}
    async with DatabaseConnector(sqlite3, entries, driver=driver) as dc:
        for host in ("a", "elsewhere"):
            assert await dc.get(host).fetch_val("SELECT 1") == 1
        assert driver.asked == [
            {"host": "a", "user": "alice"},
            {"host": "elsewhere", "user": "anybody"},
        ]
        assert dc.credentials_for("a") == {"user": "alice"}
        assert dc.credentials_for("elsewhere") == {"user": "anybody"}


async def test_an_entry_s_own_host_wins_so_keys_can_be_aliases(driver: Counting) -> None:
    async def later() -> dict[str, Any]:
        return {"host": "db3.example.com"}

    entries: dict[str, Any] = {
        "main": {"host": "db1.example.com"},
        "replica": lambda: {"host": "db2.example.com"},
        "archive": later,
    }
    async with DatabaseConnector(sqlite3, entries, driver=driver) as dc:
        for alias in entries:
            await dc.get(alias).fetch_val("SELECT 1")
        hosts = [kwargs["host"] for kwargs in driver.asked]
        assert hosts == ["db1.example.com", "db2.example.com", "db3.example.com"]
        assert dc.credentials_for("replica") is entries["replica"]


@pytest.mark.parametrize("kind", ["sync", "async", "sync, of an awaitable"])
async def test_a_callable_entry_is_asked_once_for_each_physical_connect(
    driver: Counting, kind: str
) -> None:
    asked: list[str] = []

    def at_once() -> dict[str, Any]:
        asked.append(f"secret {len(asked)}")
        return {"password": asked[-1]}

    async def later() -> dict[str, Any]:
        return at_once()

    def promise() -> Awaitable[dict[str, Any]]:
        return later()

    entry: Any = {"sync": at_once, "async": later, "sync, of an awaitable": promise}[kind]
    async with DatabaseConnector(sqlite3, {"default": entry}, driver=driver) as dc:
        pool = dc.get("a", "shop")
        assert asked == []
        for _ in range(3):
            await pool.fetch_val("SELECT 1")
        await dc.get("b").fetch_val("SELECT 1")
        await dc.clear()
        await pool.fetch_val("SELECT 1")
        assert driver.asked == [
            {"host": "a", "database": "shop", "password": "secret 0"},
            {"host": "b", "password": "secret 1"},
            {"host": "a", "database": "shop", "password": "secret 2"},
        ]


async def test_an_entry_comes_before_what_all_pools_share(driver: Counting) -> None:
    entries: dict[str, Any] = {"a": {"port": 1}, "b": {}, "c": lambda: {"port": 3}}
    async with DatabaseConnector(sqlite3, entries, driver=driver, port=9, max_size=2) as dc:
        for host in entries:
            await dc.get(host).fetch_val("SELECT 1")
            assert dc.get(host).max_size == 2
        assert [kwargs["port"] for kwargs in driver.asked] == [1, 9, 3]


async def test_an_entry_s_keywords_are_the_driver_s_even_where_the_pool_has_such_an_option(
    driver: Counting,
) -> None:
    entries = {"a": {"timeout": 7, "name": "x"}}
    options: dict[str, Any] = {"timeout": 5, "connect_kwargs": {"connect_timeout": 3}}
    async with DatabaseConnector(sqlite3, entries, driver=driver, **options) as dc:
        await dc.get("a").fetch_val("SELECT 1")
        assert dc.get("a").name == "a"
        assert driver.asked == [{"host": "a", "timeout": 7, "name": "x", "connect_timeout": 3}]


@pytest.mark.parametrize(
    ("module", "keywords"),
    [(sqlite3, {"database"}), (psycopg2, {"dbname", "database"}), (MySQLdb, {"db", "database"})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_database_goes_by_the_driver_s_own_keyword(module: Any, keywords: set[str]) -> None:
    assert find_driver(module).database_keyword in keywords


async def test_sqlite3_knows_databases_but_no_hosts(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    async with DatabaseConnector(sqlite3, {"here": {"timeout": 1.0}}) as dc:
        await dc.get("here", str(file)).execute("CREATE TABLE t (n)")
        assert file.exists()


@pytest.fixture(params=EACH_SERVER)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def current_database(server: Server) -> str:
    call = "current_database" if isinstance(server, PostgresServer) else "DATABASE"
    return f"SELECT {call}()"


@pytest.mark.parametrize("kind", ["mapping", "callable"])
async def test_each_database_of_a_server_has_a_pool_of_its_own(server: Server, kind: str) -> None:
    entry = login(server)
    del entry["host"], entry["database"]
    other = "postgres" if isinstance(server, PostgresServer) else "information_schema"
    entries: dict[str, Any] = {server.host: entry if kind == "mapping" else lambda: entry}
    async with DatabaseConnector(module_for(server), entries, max_total=2) as dc:
        sql = current_database(server)
        assert await dc.get(server.host, server.database).fetch_val(sql) == server.database
        assert await dc.get(server.host, other).fetch_val(sql) == other
        await eventually(lambda: connections(server) == 2)
    await eventually(lambda: connections(server) == 0)


@pytest.mark.parametrize("kind", ["mapping", "callable"])
async def test_the_database_asked_for_comes_before_the_entry_s_own(
    server: Server, kind: str
) -> None:
    entry = login(server)
    del entry["database"]
    if isinstance(server, PostgresServer):
        other, spellings = "postgres", ["database", "dbname"]
    else:
        other, spellings = "information_schema", ["database", "db"]
    for spelling in spellings:
        found = entry | {spelling: other}
        entries: dict[str, Any] = {server.host: found if kind == "mapping" else found.copy}
        async with DatabaseConnector(module_for(server), entries) as dc:
            sql = current_database(server)
            assert await dc.get(server.host).fetch_val(sql) == other
            assert await dc.get(server.host, server.database).fetch_val(sql) == server.database


# ------------------------------------------------------------------------------------------------
# Wrong arguments


def test_wrong_arguments_are_refused_by_name(driver: Counting) -> None:
    make: Any = functools.partial(DatabaseConnector, sqlite3, driver=driver)
    with pytest.raises(TypeError, match=r"^credentials must be a mapping, not list"):
        make([("a", {"password": SECRET})])
    with pytest.raises(
        TypeError, match=r"^credentials for 'a' must be a mapping.*not str"
    ) as caught:
        make({"a": SECRET})
    assert SECRET not in str(caught.value)
    for option in ("max_per_host", "max_total"):
        with pytest.raises(ValueError, match=f"^{option} must be at least 1, not 0"):
            make({}, **{option: 0})
        with pytest.raises(TypeError, match=f"^{option} must be an int, not str"):
            make({}, **{option: "3"})
    with pytest.raises(TypeError, match=r"^conn_pool must be a class, not str"):
        make({}, conn_pool="pool")
    with pytest.raises(ValueError, match=r"^max_size .* smaller than min_size"):
        make({}, min_size=5, max_size=3)
    with pytest.raises(TypeError, match=r"has no connect\(\)"):
        DatabaseConnector("sqlite3", {})


def test_the_class_of_the_pools_is_a_choice(driver: Counting) -> None:
    class Special(ConnectionPool):
        pass

    dc = connector(driver, conn_pool=Special, max_size=3, name="all of them")
    assert isinstance(dc.get("a"), Special)
    assert dc.get("a").max_size == 3
    assert dc.get("a").name == "all of them"


# ------------------------------------------------------------------------------------------------
# All pools together


async def test_stats_and_clear_reach_every_pool(driver: Counting) -> None:
    async with connector(driver, max_size=2) as dc:
        pools = [dc.get("a", "shop"), dc.get("a", "stock"), dc.get("b")]
        for pool in pools:
            await pool.fetch_val("SELECT 1")
        assert {key: stats.idle for key, stats in dc.stats().items()} == dict.fromkeys(dc, 1)
        assert all(stats.name == dc[key].name for key, stats in dc.stats().items())
        await dc.clear()
        assert {key: stats.size for key, stats in dc.stats().items()} == dict.fromkeys(dc, 0)
        assert driver.open.total() == 0
        assert [await pool.fetch_val("SELECT 1") for pool in pools] == [1, 1, 1]


async def test_close_leaves_nothing_and_entering_again_opens_again(driver: Counting) -> None:
    dc = connector(driver, min_size=1, max_size=2)
    async with dc:
        pools = [dc.get("a"), dc.get("b")]
        for pool in pools:
            await pool.fetch_val("SELECT 1")
        waiting = await asyncio.gather(*(pool.get() for pool in pools for _ in range(2)))
        waiter = asyncio.create_task(dc.get("a").get())
        await asyncio.sleep(0)
        closing = asyncio.create_task(dc.close())
        with pytest.raises(PoolClosed):
            await waiter
        for conn in waiting:
            await conn.close()
        await closing
        assert driver.open.total() == 0
        assert not any(threads(pool.name) for pool in pools)
        with pytest.raises(PoolClosed):
            await dc.get("a").get()
        with pytest.raises(PoolClosed, match="the connector is closed"):
            dc.get("c")
        await dc.close()  # does no harm
    async with dc:
        assert [pool.idle for pool in pools] == [1, 1]
        assert await dc.get("a").fetch_val("SELECT 1") == 1
        assert await dc.get("c").fetch_val("SELECT 1") == 1
    assert driver.open.total() == 0


async def test_close_closes_every_pool_even_if_one_of_them_fails(driver: Counting) -> None:
    class Stubborn(ConnectionPool):
        async def close(self, timeout: float | None = 10.0) -> None:
            await super().close(timeout)
            if self.name == "a":
                raise ZeroDivisionError

    dc = connector(driver, conn_pool=Stubborn)
    await dc.get("a").fetch_val("SELECT 1")
    async with dc.get("b"), dc.connection("b"):
        closing = asyncio.create_task(dc.close())
        await asyncio.sleep(0.05)
        early = closing.done()
    with pytest.raises(ZeroDivisionError):
        await closing
    assert not early, "the second pool still had a borrower"
    assert driver.open.total() == 0
