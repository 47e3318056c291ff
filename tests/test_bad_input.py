"""Connects and statements that fail: the driver's own error, no password, and nothing lost."""

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import MySQLdb
import pytest

from asyncdbpool import ConnectionPool, Driver, PoolError, PoolTimeout
from support.access import eventually, login, module_for
from support.mistakes import SECRET, gauges, keeps_the_secret
from support.servers import Server, free_port

# ------------------------------------------------------------------------------------------------
# Connects that the driver or the server refuses


@dataclass
class Entrance:
    """A pool whose next connect fails or succeeds, as `change` says."""

    server: Server
    change: dict[str, Any]
    pool: ConnectionPool = None  # type: ignore[assignment] # made next

    def __post_init__(self) -> None:
        self.pool = ConnectionPool(module_for(self.server), credentials=self.credentials)

    def credentials(self) -> dict[str, Any]:
        return login(self.server) | self.change


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong password": ({"password": SECRET}, "password authentication failed|Access denied"),
    "a database that is not there": (
        {"database": "nowhere", "user": "admin"},
        'database "nowhere" does not exist|Unknown database',
    ),
    "a host nobody listens on": ({"port": free_port()}, "refused|Can't connect to"),
    "a keyword the driver does not know": (
        {"pasword": SECRET},
        "invalid connection option|invalid keyword argument|unexpected keyword",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_refused_connect_is_told_as_the_driver_tells_it(
    server: Server, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, words = REFUSED[mistake]
    door = Entrance(server, change)
    pool = door.pool
    before = gauges(pool)
    for attempt in (pool.get, partial(pool.execute, "SELECT 1"), pool.connection().__aenter__):
        with pytest.raises((pool.module.Error, TypeError), match=words) as caught:
            await attempt()
        assert not isinstance(caught.value, PoolError)
        assert keeps_the_secret(pool, caught.value, caplog.text)
        await eventually(lambda: gauges(pool) == before)
    assert pool.stats().connect_errors == 3

    door.change = {}
    assert await pool.fetch_val("SELECT 1") == 1
    await pool.close()


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_pool_that_cannot_open_says_why_and_may_be_opened_again(
    server: Server, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, words = REFUSED[mistake]
    door = Entrance(server, change)
    pool = door.pool
    await pool.resize(min_size=2)
    before = gauges(pool)
    with pytest.raises((pool.module.Error, TypeError), match=words) as caught:
        await pool.open()
    assert keeps_the_secret(pool, caught.value, caplog.text)
    assert gauges(pool) == before

    door.change = {}
    async with pool:
        assert pool.idle == 2


async def test_an_unknown_keyword_reaches_the_driver_and_its_refusal_comes_back() -> None:
    pool = ConnectionPool(sqlite3, ":memory:", maxsize=SECRET)
    before = gauges(pool)
    with pytest.raises(TypeError, match="keyword argument") as caught:
        await pool.get()
    assert keeps_the_secret(pool, caught.value)
    assert gauges(pool) == before
    await pool.close()


async def test_a_timeout_tells_the_last_connect_error_but_no_password(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ConnectionPool(
        module_for(server),
        **login(server, port=free_port(), password=SECRET),
        retry_connect=60,
        timeout=0.3,
    )
    before = gauges(pool)
    with pytest.raises(PoolTimeout, match=f"pool {pool.name!r}: no connection within") as caught:
        await pool.get()
    assert isinstance(caught.value.__cause__, pool.module.OperationalError)
    assert keeps_the_secret(pool, caught.value, caplog.text)
    await eventually(lambda: gauges(pool) == before)
    await pool.close()


class Talkative(Exception):
    """What a driver raises that repeats the password."""


@pytest.mark.parametrize("way", ["keyword", "connect_kwargs", "credentials", "dsn"])
async def test_the_log_of_a_failed_refill_shows_no_password(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    def connect(dsn: str = "", password: str = "") -> sqlite3.Connection:
        if broken:
            raise Talkative(f"no entry with {dsn}{password}")
        return sqlite3.connect(":memory:", check_same_thread=False)

    ways: dict[str, dict[str, Any]] = {
        "keyword": {"password": SECRET},
        "connect_kwargs": {"connect_kwargs": {"password": SECRET}},
        "credentials": {"credentials": lambda: {"password": SECRET}},
        "dsn": {"dsn": f"host=db password={SECRET}"},
    }
    caplog.set_level(logging.DEBUG, "asyncdbpool")
    module = SimpleNamespace(connect=connect, __name__="talkative")
    async with ConnectionPool(module, driver=Driver(module), min_size=1, **ways[way]) as pool:
        broken = True
        await pool.clear()
        await eventually(lambda: "connect failed" in caplog.text)
        assert "Talkative: no entry with" in caplog.text
        assert repr(pool.name) in caplog.text
        assert SECRET not in caplog.text


async def test_credentials_that_are_no_mapping_are_refused_by_name() -> None:
    pool = ConnectionPool(sqlite3, ":memory:", credentials=lambda: [SECRET])  # type: ignore[arg-type, return-value]
    before = gauges(pool)
    with pytest.raises(TypeError, match=r"credentials.*mapping.*list") as caught:
        await pool.get()
    assert keeps_the_secret(pool, caught.value)
    assert gauges(pool) == before
    await pool.close()


async def test_a_connect_that_returns_none_is_an_error_with_names() -> None:
    module = SimpleNamespace(connect=lambda **_: None, __name__="absent")
    pool = ConnectionPool(module, password=SECRET, name="the void", driver=Driver(module))
    before = gauges(pool)
    with pytest.raises(PoolError, match="returned None, not a connection") as caught:
        await pool.get()
    assert "the void" in str(caught.value)
    assert keeps_the_secret(pool, caught.value)
    assert gauges(pool) == before
    await pool.close()


class Clumsy(sqlite3.Connection):
    """A driver's connection whose `cursor()` raises as often as asked."""

    failures = 0
    opened = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Clumsy.opened += 1

    def close(self) -> None:
        Clumsy.opened -= 1
        super().close()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if Clumsy.failures:
            Clumsy.failures -= 1
            raise sqlite3.OperationalError("no cursor today")
        return super().cursor(*args, **kwargs)


@pytest.fixture
def clumsy() -> Iterator[type[Clumsy]]:
    Clumsy.failures = Clumsy.opened = 0
    yield Clumsy
    assert Clumsy.opened == 0


async def test_a_driver_that_raises_from_cursor_fails_the_statement_and_no_more(
    clumsy: type[Clumsy],
) -> None:
    async with ConnectionPool(sqlite3, ":memory:", factory=clumsy) as pool:
        async with pool.connection() as conn:
            before = gauges(pool)
            statements: list[Callable[[], Awaitable[Any]]] = [
                lambda: conn.execute("SELECT 1"),
                lambda: conn.executemany("SELECT ?", [(1,)]),
                lambda: conn.fetch_all("SELECT 1"),
            ]
            for statement in statements:
                clumsy.failures = 1
                with pytest.raises(sqlite3.OperationalError, match="no cursor today"):
                    await statement()
                assert gauges(pool) == before
            assert await conn.fetch_val("SELECT 1") == 1
        before = gauges(pool)
        clumsy.failures = 1
        with pytest.raises(sqlite3.OperationalError, match="no cursor today"):
            await pool.fetch_val("SELECT 1")
        assert gauges(pool) == before
        assert await pool.fetch_val("SELECT 1") == 1


async def test_a_driver_whose_first_cursor_fails_leaves_no_connection(
    clumsy: type[Clumsy],
) -> None:
    pool = ConnectionPool(sqlite3, ":memory:", factory=clumsy)
    before = gauges(pool)
    clumsy.failures = 1
    with pytest.raises(sqlite3.OperationalError, match="no cursor today"):
        await pool.get()
    assert gauges(pool) == before
    assert clumsy.opened == 0
    assert await pool.fetch_val("SELECT 1") == 1
    await pool.close()


# ------------------------------------------------------------------------------------------------
# Statements that fail


@pytest.fixture(params=["sqlite3", "psycopg2", "MySQLdb"])
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "sqlite3":
        made = ConnectionPool(sqlite3, tmp_path / "shop.db", max_size=2)
    else:
        name = {"psycopg2": "postgres", "MySQLdb": "mariadb"}[request.param]
        server = request.getfixturevalue(name)
        made = ConnectionPool(module_for(server), **login(server), max_size=2)
    async with made:
        engine = " ENGINE=InnoDB" if made.module is MySQLdb else ""
        await made.execute("DROP TABLE IF EXISTS stock" if engine == "" else "DO 1")
        await made.execute(f"CREATE TABLE stock (n integer PRIMARY KEY){engine}")
        yield made
        await made.execute("DROP TABLE stock")


def insert(pool: ConnectionPool) -> str:
    return f"INSERT INTO stock VALUES ({'?' if pool.module is sqlite3 else '%s'})"


async def test_sql_that_fails_costs_nothing_but_the_statement(pool: ConnectionPool) -> None:
    before = gauges(pool)
    one_shots: list[Callable[[], Awaitable[Any]]] = [
        partial(pool.execute, "SELEKT 1"),
        partial(pool.fetch_all, "SELECT * FROM nowhere"),
        partial(pool.fetch_one, "SELECT * FROM nowhere"),
        partial(pool.fetch_val, "SELECT * FROM nowhere"),
        partial(pool.execute_many, insert(pool), [(1,), (2,), (1,)]),  # the key comes twice
    ]
    for attempt in one_shots:
        with pytest.raises(pool.module.Error) as caught:
            await attempt()
        assert not isinstance(caught.value, PoolError)
        assert gauges(pool) == before
    assert await pool.fetch_val("SELECT count(*) FROM stock") == 0
    assert pool.stats().created == 1, "all of it was one connection"


async def test_a_failed_statement_leaves_a_lease_that_returns_clean(pool: ConnectionPool) -> None:
    before = gauges(pool)
    async with pool.connection() as conn:
        await conn.execute(insert(pool), (7,))
        cursor = conn.cursor()
        for failing in (
            conn.execute("SELEKT 1"),
            cursor.execute("SELECT * FROM nowhere"),
            cursor.executemany(insert(pool), [(1,), (1,)]),
        ):
            with pytest.raises(pool.module.Error):
                await failing
    assert gauges(pool) == before
    async with pool.connection() as conn:
        assert await conn.fetch_val("SELECT count(*) FROM stock") == 0, "nobody had committed"
        await conn.execute(insert(pool), (8,))
        await conn.commit()
    assert await pool.fetch_val("SELECT n FROM stock") == 8
    assert pool.stats().created == 1


async def test_parameters_that_do_not_fit_fail_as_the_driver_says(pool: ConnectionPool) -> None:
    before = gauges(pool)
    errors = (pool.module.Error, TypeError, IndexError)
    with pytest.raises(errors):
        await pool.execute(insert(pool), ())
    with pytest.raises(errors):
        async with pool.connection() as conn:
            await conn.execute(insert(pool), (1, 2, 3))
    assert gauges(pool) == before
    assert await pool.execute(insert(pool), (1,)) == 1


async def test_the_first_error_of_a_transaction_is_the_one_that_comes_out(
    pool: ConnectionPool,
) -> None:
    before = gauges(pool)
    with pytest.raises(pool.module.IntegrityError):
        async with pool.transaction() as conn:
            await conn.execute(insert(pool), (1,))
            await conn.execute(insert(pool), (1,))
    assert gauges(pool) == before
    assert await pool.fetch_val("SELECT count(*) FROM stock") == 0
