"""The connector: databases by host and name, whatever a driver calls them."""

from typing import Any

import pytest

from asyncdbpool import DatabaseConnector, PoolTimeout, UnknownHost
from asyncdbpool.drivers import find_driver
from asyncdbpool.testing import check_invariants
from support.databases import Database
from support.lines import written

pytestmark = pytest.mark.needs("database keyword")


@pytest.fixture
def login(database: Database) -> tuple[dict[str, Any], str]:
    """The connect keywords without the database's, and its name."""
    driver = find_driver(database.module)
    entry = dict(database.arguments)
    spellings = {driver.database_keyword, *driver.database_aliases}
    (name,) = [entry.pop(spelling) for spelling in spellings & entry.keys()]
    return entry, name


async def test_a_connector_finds_a_database_by_its_host_and_name(
    database: Database, wares: str, login: tuple[dict[str, Any], str]
) -> None:
    entry, name = login

    async def later() -> dict[str, Any]:
        return entry

    entries: dict[str, Any] = {"alias": entry, "asked": lambda: entry, "asked later": later}
    async with DatabaseConnector(database.module, entries, max_size=1) as dc:
        for n, host in enumerate(entries):
            async with dc.transaction(host, name) as conn:
                await conn.execute(database.inserts(n))
            async with dc.connection(host, name) as conn:
                assert await conn.fetch_val("SELECT max(id) FROM wares") == n
            assert dc.stats()[host, name].created == 1
        assert list(dc) == [(host, name) for host in entries]
        assert dc.get("alias", name) is dc["alias", name]
        with pytest.raises(UnknownHost, match="'alias', 'asked', 'asked later'"):
            dc.get("nowhere")
        for pool in dc.values():
            check_invariants(pool)
        await dc.clear()
        assert {stats.size for stats in dc.stats().values()} == {0}
    assert written(database) == [0, 1, 2]


async def test_the_pools_for_one_host_share_its_connections(
    database: Database, login: tuple[dict[str, Any], str]
) -> None:
    _, name = login
    entries = {"main": database.arguments}
    async with DatabaseConnector(database.module, entries, max_per_host=1, timeout=5) as dc:
        one, other = dc.get("main"), dc.get("main", name)
        async with one.connection() as conn:
            assert await conn.fetch_val(database.select(1)) == 1
            with pytest.raises(PoolTimeout):
                await other.get(timeout=0.01)
        assert (one.idle, other.free) == (1, 1)
        assert await other.fetch_val(database.select(2)) == 2, "an idle one makes room"
        assert (one.size, other.size) == (0, 1)
        for pool in (one, other):
            check_invariants(pool)
