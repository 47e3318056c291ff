"""Shillelagh, SQL over files: a module that no file of the library knows, and no server at all."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import shillelagh.backends.apsw.db as shillelagh

from asyncdbpool import ConnectionPool, Driver
from asyncdbpool.testing import check_invariants
from support.access import left_of

WARES = '"name","price"\n"bolt",3\n"nut",1\n"screw",2\n'


@pytest.fixture
def wares(tmp_path: Path) -> str:
    """A table, which is a file."""
    file = tmp_path / "wares.csv"
    file.write_text(WARES)
    return f'"{file}"'


@pytest.fixture
def options() -> dict[str, Any]:
    return {"adapters": ["csvfile"], "max_size": 3}


async def test_the_generic_driver_serves_it(wares: str, options: dict[str, Any]) -> None:
    async with ConnectionPool(shillelagh, ":memory:", **options) as pool:
        assert type(pool._driver) is Driver
        cheap = f"SELECT name FROM {wares} WHERE price < ? ORDER BY name"
        assert await pool.fetch_all(cheap, (3,)) == [("nut",), ("screw",)]
        total = f"SELECT sum(price) FROM {wares}"
        assert await asyncio.gather(*(pool.fetch_val(total) for _ in range(20))) == [6.0] * 20
        async with pool.connection() as conn:
            cursor = await conn.execute(f"SELECT * FROM {wares}")
            assert [column[0] for column in cursor.description] == ["name", "price"]
            assert [row async for row in cursor] == [("bolt", 3), ("nut", 1), ("screw", 2)]
        assert await pool.execute(f"INSERT INTO {wares} VALUES (?, ?)", ("washer", 4)) >= -1
        assert await pool.fetch_val(f"SELECT count(*) FROM {wares}") == 4
        assert pool.size <= 3
        check_invariants(pool)
    assert left_of(pool.name) == []


async def test_its_errors_are_its_own_and_cost_nothing(
    wares: str, options: dict[str, Any]
) -> None:
    async with ConnectionPool(shillelagh, ":memory:", **options) as pool:
        for sql in ("SELECT nothing FROM nowhere", f"SELECT nothing FROM {wares}"):
            with pytest.raises(shillelagh.Error):
                await pool.fetch_all(sql)
        assert await pool.fetch_val(f"SELECT count(*) FROM {wares}") == 3
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
        check_invariants(pool)


async def test_without_a_cleanup_what_was_begun_by_hand_ends_with_its_connection(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    file = str(tmp_path / "shop.db")
    async with ConnectionPool(shillelagh, file, **options, cleanup=None) as pool:
        async with pool.connection() as conn:
            await conn.execute("BEGIN")
            await conn.execute("CREATE TABLE wares (name TEXT)")
        assert await pool.fetch_val("SELECT count(*) FROM sqlite_master") == 0
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)
        check_invariants(pool)
