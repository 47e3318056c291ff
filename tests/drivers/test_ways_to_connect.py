"""Connecting: in every way that a driver offers, and its own errors where it fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncdbpool import ConnectionPool, PoolTimeout
from asyncdbpool.testing import check_invariants
from support.access import left_of
from support.activity import Activity
from support.databases import Database
from support.servers import Server, free_port
from support.subjects import Subject


@pytest.fixture
def login(subject: Subject, request: pytest.FixtureRequest) -> Any:
    """The connect keywords of the database's own description."""
    return subject.like.describe(request.getfixturevalue(subject.like.place)).arguments


async def test_every_way_to_connect_leads_there(
    database: Database, subject: Subject, wares: str, login: Any
) -> None:
    database.change(database.inserts(7))
    ways = {"by keywords": ((), dict(database.arguments)), **subject.ways(login)}
    for way, (args, kwargs) in ways.items():
        async with ConnectionPool(subject.module, *args, **kwargs) as pool:
            assert await pool.fetch_val(f"SELECT id FROM {wares}") == 7, way
        assert left_of(pool.name) == []


@pytest.mark.needs("server", "Unix socket")
async def test_a_unix_socket_leads_there_and_a_cancel_finds_it(
    database: Database, subject: Subject, server: Server, login: Any, activity: Activity
) -> None:
    assert subject.by_socket is not None
    assert server.socket is not None
    assert subject.like.locally is not None
    async with database.opened() as pool:
        assert await pool.fetch_val(subject.like.locally) == 0
    arguments = subject.by_socket(login, server.socket)
    async with ConnectionPool(subject.module, max_size=1, **arguments) as pool:
        assert await pool.fetch_val(subject.like.locally) == 1
        await cancels(pool, activity)
        assert await pool.fetch_val(subject.like.locally) == 1
        assert pool.stats().created == 1
    assert left_of(pool.name) == []


@pytest.mark.needs("server", "option file")
@pytest.mark.usefixtures("wares")
async def test_an_option_file_leads_there_and_a_cancel_finds_it(
    subject: Subject,
    login: Any,
    activity: Activity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert subject.by_file is not None
    assert subject.like.options is not None
    path = tmp_path / "shop.conf"
    path.write_text(subject.like.options(login))
    path.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    async with ConnectionPool(subject.module, max_size=1, **subject.by_file(path)) as pool:
        assert await pool.fetch_val("SELECT count(*) FROM wares") == 0
        await cancels(pool, activity)
        assert await pool.fetch_val("SELECT count(*) FROM wares") == 0
        assert pool.stats().created == 1
    assert left_of(pool.name) == []


async def cancels(pool: ConnectionPool, activity: Activity) -> None:
    """Cancel a statement, for which some drivers connect once more; its connection goes on."""
    task = asyncio.create_task(pool.fetch_all(activity.endless))
    await activity.begins()
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert (pool.stats().cancelled, pool.stats().discarded) == (1, 0)
    check_invariants(pool)


async def test_keywords_of_credentials_are_asked_for_each_connect(
    database: Database, subject: Subject
) -> None:
    asked = []

    def credentials() -> dict[str, Any]:
        asked.append(1)
        return dict(database.arguments)

    pool = ConnectionPool(subject.module, credentials=credentials, max_size=2)
    async with pool, pool.connection() as one, pool.connection() as two:
        for conn in (one, two):
            assert await conn.fetch_val(database.select(1)) == 1
    assert len(asked) == 2


@pytest.mark.needs("server")
async def test_a_wrong_password_is_the_driver_s_own_error_and_no_secret_is_told(
    database: Database, subject: Subject, login: Any
) -> None:
    arguments = subject.arguments({**login, "password": "swordfish"})
    async with ConnectionPool(subject.module, retry_connect=60, **arguments) as pool:
        with pytest.raises(database.errors) as caught:
            await pool.get(timeout=20)
        assert "swordfish" not in str(caught.value) + repr(pool)
        assert pool.stats().connect_errors == 1, "it is not tried again"
        check_invariants(pool)


@pytest.mark.needs("server", "port")
async def test_a_database_that_is_not_there_is_not_tried_again(
    database: Database, subject: Subject, login: Any
) -> None:
    arguments = subject.arguments({**login, "database": "nowhere"})
    async with ConnectionPool(subject.module, retry_connect=60, **arguments) as pool:
        with pytest.raises(database.errors):
            await pool.get(timeout=20)
        assert pool.stats().connect_errors == 1
        check_invariants(pool)


@pytest.mark.needs("server", "port")
async def test_a_server_that_is_not_there_yet_is_tried_again(subject: Subject, login: Any) -> None:
    arguments = subject.arguments({**login, "port": free_port()})
    async with ConnectionPool(subject.module, retry_connect=60, **arguments) as pool:
        with pytest.raises(PoolTimeout) as caught:
            await pool.get(timeout=2)
        assert caught.value.__cause__ is not None
        assert pool.stats().connect_errors > 1
        check_invariants(pool)


async def test_connections_are_made_side_by_side(
    database: Database, subject: Subject, server: Server | None
) -> None:
    async with database.opened(max_size=4) as pool:
        conns = await asyncio.gather(*(pool.get() for _ in range(4)))
        values = await asyncio.gather(*(c.fetch_val(database.select(1)) for c in conns))
        assert values == [1] * 4
        for conn in conns:
            await pool.put(conn)
        assert (pool.size, pool.idle) == (4, 4)
