"""Connecting: in every way that a driver offers, and its own errors where it fails."""

import asyncio
from typing import Any

import pytest

from asyncdbpool import ConnectionPool, PoolTimeout
from asyncdbpool.testing import check_invariants
from support.access import left_of
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
            await pool.get(timeout=0.6)
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
