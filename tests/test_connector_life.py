"""A connector over the life of event loops, and one that cannot be opened."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from asyncdbpool import DatabaseConnector
from support.access import eventually


def in_memory(**options: Any) -> DatabaseConnector:
    return DatabaseConnector(
        sqlite3, {"default": {}}, connect_kwargs={"database": ":memory:"}, **options
    )


@pytest.mark.parametrize("host", ["the same", "another"])
def test_the_room_of_a_pool_whose_event_loop_is_closed_is_free_again(host: str) -> None:
    connector = in_memory(max_total=1, timeout=5)

    async def ask(host: str) -> Any:
        return await connector.get(host).fetch_val("SELECT 7")

    assert asyncio.run(ask("the same")) == 7
    if host == "the same":
        with pytest.warns(ResourceWarning, match="not closed before its event loop"):
            assert asyncio.run(ask(host)) == 7
    else:
        assert asyncio.run(ask(host)) == 7

    async def end() -> None:
        await connector.close()

    if host == "the same":
        with pytest.warns(ResourceWarning, match="not closed before its event loop"):
            asyncio.run(end())
    else:
        with pytest.warns(ResourceWarning):
            asyncio.run(end())


async def test_a_connector_that_cannot_be_opened_leaves_nothing_open() -> None:
    def connect(host: str, **_: Any) -> sqlite3.Connection:
        if host == "bad":
            raise ValueError(host)
        return sqlite3.connect(":memory:", check_same_thread=False)

    module = SimpleNamespace(connect=connect, __name__="picky")
    connector = DatabaseConnector(module, {"default": {}}, min_size=1)
    good = connector.get("good")
    connector.get("bad")
    with pytest.raises(ValueError, match="bad"):
        await connector.__aenter__()
    await eventually(lambda: good.size == 0)


async def test_every_secret_that_credentials_have_given_is_kept_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets = iter(f"secret-{n}" for n in range(100))

    def connect(host: str, password: str) -> sqlite3.Connection:
        raise ValueError(f"bad password {password}")

    def credentials() -> dict[str, str]:
        return {"password": next(secrets)}

    module = SimpleNamespace(connect=connect, __name__="loud")
    connector = DatabaseConnector(module, {"default": credentials}, min_size=2, max_size=2)
    pool = connector.get("here")
    with pytest.raises(ValueError, match="secret-"):
        await pool.get()
    await eventually(lambda: pool.stats().connect_errors >= 2)
    await connector.close()
    assert "***" in caplog.text
    assert "secret-" not in caplog.text
