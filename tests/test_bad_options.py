"""Options and arguments that make no sense are refused by name, before anything happens."""

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

import MySQLdb
import pytest

from asyncdbpool import ConnectionPool
from support.mistakes import SECRET, gauges, keeps_the_secret

# ------------------------------------------------------------------------------------------------
# Options


TIMES = (
    *("max_idle", "max_age", "timeout", "connect_timeout", "retry_connect", "check_after"),
    *("check_timeout", "keepalive", "cancel_grace", "leak_timeout"),
)
WHOLE_NUMBERS = ("min_size", "max_size", "max_uses", "max_waiting", "connect_limit")
HOOKS = ("setup", "check", "cleanup")


@pytest.mark.parametrize("option", TIMES)
@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("-inf")])
def test_a_negative_time_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be .* seconds, not {value}$") as caught:
        ConnectionPool(sqlite3, password=SECRET, **{option: value})  # type: ignore[arg-type]
    assert keeps_the_secret(None, caught.value)


@pytest.mark.parametrize("option", ["connect_timeout", "check_timeout", "cancel_grace"])
def test_a_deadline_of_nothing_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be more than 0"):
        ConnectionPool(sqlite3, **{option: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", TIMES)
@pytest.mark.parametrize("value", ["5", True, [1], object()])
def test_a_time_is_a_number(option: str, value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"^{option} must be a number of seconds, not {kind}$"):
        ConnectionPool(sqlite3, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", ["5", 2.0, True, [1]])
def test_a_size_is_a_whole_number(option: str, value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"^{option} must be an int, not {kind}$"):
        ConnectionPool(sqlite3, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_size", -1),
        ("max_size", 0),
        ("max_uses", 0),
        ("max_waiting", -1),
        ("connect_limit", 0),
    ],
)
def test_a_size_that_is_too_small_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be at least {value + 1}, not {value}$"):
        ConnectionPool(sqlite3, **{option: value})  # type: ignore[arg-type]


def test_max_size_below_min_size_is_refused_with_both_figures() -> None:
    with pytest.raises(ValueError, match=r"max_size \(3\) .* min_size \(5\).*raise the one"):
        ConnectionPool(sqlite3, min_size=5, max_size=3)


@pytest.mark.parametrize("option", ["check", "cleanup"])
def test_an_unknown_word_is_refused_with_the_known_ones(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be \".*None or a callable, not 'often'"):
        ConnectionPool(sqlite3, **{option: "often"})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["setup", "check", "cleanup", "credentials"])
def test_a_hook_that_cannot_be_called_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=rf"^{option} must be .*callable.*not int"):
        ConnectionPool(sqlite3, **{option: 7})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", HOOKS)
def test_a_coroutine_function_is_no_hook_for_a_blocking_driver(option: str) -> None:
    async def hook(raw: object) -> None: ...

    class Hook:
        async def __call__(self, raw: object) -> None: ...

    for given in (hook, partial(hook), Hook()):
        with pytest.raises(TypeError, match=f"^{option} is a coroutine function.*plain function"):
            ConnectionPool(sqlite3, **{option: given})  # type: ignore[arg-type]


def test_a_name_is_text() -> None:
    with pytest.raises(TypeError, match=r"^name must be a str or None, not int$"):
        ConnectionPool(sqlite3, name=7)  # type: ignore[arg-type]


def test_a_driver_is_a_driver() -> None:
    with pytest.raises(TypeError, match=r"a NativeDriver or None, not str$"):
        ConnectionPool(sqlite3, driver="psycopg2")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [None, "sqlite3", 7, SimpleNamespace(connect="localhost")])
def test_a_module_without_connect_is_refused(module: object) -> None:
    with pytest.raises(TypeError, match=r"has no connect\(\); give a driver's module"):
        ConnectionPool(module, password=SECRET)


async def test_making_a_pool_for_an_unknown_module_blocks_nothing() -> None:
    module = SimpleNamespace(connect=sqlite3.connect, __name__="unheard_of")
    assert ConnectionPool(module).size == 0  # blockbuster would raise


def test_connect_keywords_are_a_mapping() -> None:
    with pytest.raises(TypeError, match=r"^connect_kwargs must be a mapping, not list$") as caught:
        ConnectionPool(sqlite3, connect_kwargs=[SECRET])  # type: ignore[arg-type]
    assert keeps_the_secret(None, caught.value)


def test_a_connect_keyword_is_given_in_one_way_only() -> None:
    with pytest.raises(TypeError, match="both directly and in connect_kwargs: passwd") as caught:
        ConnectionPool(MySQLdb, passwd=SECRET, connect_kwargs={"passwd": SECRET, "user": "me"})
    assert keeps_the_secret(None, caught.value)


# ------------------------------------------------------------------------------------------------
# Arguments of the methods


async def test_wrong_arguments_of_methods_name_themselves_and_change_nothing() -> None:
    async def hook(raw: object) -> None: ...

    async with ConnectionPool(sqlite3, ":memory:", min_size=1, max_size=3) as pool:
        conn = await pool.get()
        before = gauges(pool)
        mistakes: list[tuple[Callable[[], Awaitable[object]], type[Exception], str]] = [
            (lambda: pool.get(timeout=-1), ValueError, "^timeout must be 0 or more"),
            (lambda: pool.get(timeout="1"), TypeError, "^timeout must be a number"),  # type: ignore[arg-type]
            (lambda: pool.connection(timeout=-1).__aenter__(), ValueError, "^timeout"),
            (lambda: pool.transaction(timeout=-1).__aenter__(), ValueError, "^timeout"),
            (lambda: pool.connection(cleanup="no").__aenter__(), ValueError, "^cleanup"),  # type: ignore[arg-type]
            (lambda: pool.put(conn, cleanup="no"), ValueError, "^cleanup must be"),  # type: ignore[arg-type]
            (lambda: pool.put(conn, cleanup=7), TypeError, "^cleanup must be"),  # type: ignore[arg-type]
            (lambda: pool.put(conn, cleanup=hook), TypeError, "^cleanup is a coroutine"),
            (lambda: pool.resize(max_size=0), ValueError, "^max_size must be at least 1"),
            (lambda: pool.resize(min_size=4), ValueError, "^max_size .* smaller than min_size"),
            (lambda: pool.resize(max_size="4"), TypeError, "^max_size must be an int"),  # type: ignore[arg-type]
            (lambda: pool.close(timeout=-1), ValueError, "^timeout must be 0 or more"),
        ]
        for mistake, kind, words in mistakes:
            with pytest.raises(kind, match=words):
                await mistake()
            assert gauges(pool) == before
        assert await conn.fetch_val("SELECT 1") == 1
        await pool.put(conn)
