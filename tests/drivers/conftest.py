"""The conformance suite's fixtures: each driver in turn, and pools of it that are looked through.

A test that wants more than every driver has says so with `@pytest.mark.needs("savepoints")`; it
runs with those that have it, and the drivers' own files (`tests/support/subjects/`) say of the
others why they have not. One that is about a single server says `@pytest.mark.needs("MariaDB")`.
A need that no driver is without is misspelt, and fails the collection.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import left_of
from support.activity import Activity
from support.databases import Database
from support.servers import Server
from support.subjects import Subject, subjects

SUBJECTS = subjects()

Pools = Callable[..., ConnectionPool]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test take in turn every driver that has what it needs."""
    needed = [need for mark in metafunc.definition.iter_markers("needs") for need in mark.args]
    if "subject" in metafunc.fixturenames:
        able = [
            pytest.param(subject, id=subject.name, marks=_marks(subject))
            for subject in SUBJECTS
            if subject.has(*needed)
        ]
        metafunc.parametrize("subject", able, indirect=True)
    elif needed:
        raise LookupError(f"no driver takes a test that needs {', '.join(map(repr, needed))}")


def _marks(subject: Subject) -> list[pytest.MarkDecorator]:
    place = subject.like.place
    return [] if place == "tmp_path" else [getattr(pytest.mark, place)]


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    """A driver, and what sets it apart."""
    subject: Subject = request.param
    return subject


@pytest.fixture
def server(request: pytest.FixtureRequest, subject: Subject) -> Server | None:
    """Its server, if it has one."""
    place = request.getfixturevalue(subject.like.place)
    return place if isinstance(place, Server) else None


@pytest.fixture
def database(request: pytest.FixtureRequest, subject: Subject) -> Database:
    """A database for it."""
    return subject.database(request.getfixturevalue(subject.like.place))


@pytest.fixture
def activity(database: Database, subject: Subject, server: Server | None) -> Iterator[Activity]:
    """The database, with a view on what happens there."""
    with subject.activity(database, server) as activity:
        yield activity


@pytest.fixture
def wares(database: Database) -> str:
    """A table `wares (id, name)` that is empty and stays when the test ends; its name."""
    columns = "id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40)"
    database.change(database.creates.format(table="wares", columns=columns))
    database.change("DELETE FROM wares")
    return "wares"


@pytest.fixture
async def pools(
    request: pytest.FixtureRequest, database: Database, wares: str
) -> AsyncIterator[Pools]:
    """Makes pools, for which the invariants hold when the test ends."""
    watched = "activity" in request.fixturenames
    source = request.getfixturevalue("activity") if watched else database
    made: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        made.append(source.pool(**options))
        return made[-1]

    yield make
    for pool in made:
        check_invariants(pool, proxies=False)
        await pool.close(1)
        check_invariants(pool, proxies=False)
        assert left_of(pool.name) == []


@pytest.fixture(name="pool")
def pool_of_two(pools: Pools) -> ConnectionPool:
    """A pool of two connections."""
    return pools(max_size=2)
