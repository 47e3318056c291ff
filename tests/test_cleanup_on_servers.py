"""What a borrower finds on a real server: a session as clean as the pool was asked to make it."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from support.access import EACH_SERVER, backend, change, empty_notes, opened, threads, written
from support.servers import MariaDBServer, PostgresServer, Server


@pytest.fixture(params=EACH_SERVER)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def notes(server: Server) -> Iterator[None]:
    with empty_notes(server):
        yield


@pytest.mark.usefixtures("notes")
async def test_what_nobody_committed_is_gone_on_the_next_lease(server: Server) -> None:
    async with opened(server) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            await conn.execute("INSERT INTO notes VALUES (1, 'lost')")
        async with pool.connection() as conn:
            assert await backend(server, conn) == first
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0
            await conn.execute("INSERT INTO notes VALUES (1, 'kept')")
            await conn.commit()
        assert written(server) == 1


def take_snapshots(raw: Any) -> None:
    if isinstance(raw, psycopg2.extensions.connection):
        raw.set_session(isolation_level="REPEATABLE READ")  # MariaDB's default


@pytest.mark.usefixtures("notes")
async def test_no_lease_sees_the_snapshot_of_an_earlier_one(server: Server) -> None:
    async with opened(server, setup=take_snapshots) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0
            change(server, "INSERT INTO notes VALUES (1, 'news')")
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0, "it is a snapshot"
        async with pool.connection() as conn:
            assert await backend(server, conn) == first
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 1
        change(server, "INSERT INTO notes VALUES (2, 'news')")
        assert await pool.fetch_val("SELECT count(*) FROM notes") == 2
        change(server, "INSERT INTO notes VALUES (3, 'news')")
        assert await pool.fetch_val("SELECT count(*) FROM notes") == 3


async def test_a_rollback_leaves_the_rest_of_the_session_alone_and_a_reset_does_not(
    server: Server,
) -> None:
    if isinstance(server, PostgresServer):
        alter = [
            "SET application_name = 'mine'",
            "CREATE TEMPORARY TABLE scratch (n integer)",
            "SELECT pg_advisory_lock(7)",
            "PREPARE plan AS SELECT 1",
            "LISTEN news",
        ]
        look = (
            "SELECT current_setting('application_name') = 'mine',"
            " to_regclass('scratch') IS NOT NULL,"
            " EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
            "  AND pid = pg_backend_pid()),"
            " EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'plan'),"
            " EXISTS (SELECT FROM pg_listening_channels())"
        )
    else:
        alter = [
            "SET @mine = 1",
            "SET SESSION max_statement_time = 99",
            "CREATE TEMPORARY TABLE scratch (n integer)",
            "SELECT GET_LOCK('seven', 0)",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
            "SET SESSION sql_mode = 'ANSI'",
        ]
        look = (
            "SELECT @mine IS NOT NULL, @@max_statement_time = 99,"
            " EXISTS (SELECT * FROM information_schema.tables WHERE table_name = 'scratch'),"
            " IS_USED_LOCK('seven') <=> CONNECTION_ID(),"
            " @@tx_isolation = 'READ-UNCOMMITTED',"
            " @@sql_mode LIKE '%%ANSI%%'"
        )
    async with opened(server) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            for sql in alter:
                await conn.execute(sql)
            await conn.commit()
        async with pool.connection(cleanup="reset") as conn:
            assert await backend(server, conn) == first
            row = await conn.fetch_one(look)
            assert all(row[:2]), f"a rollback is no reset: {row}"
        async with pool.connection() as conn:
            assert await backend(server, conn) == first, "a reset is no reconnect"
            row = await conn.fetch_one(look)
            assert not any(row), f"left behind: {row}"


@pytest.mark.usefixtures("notes")
async def test_a_reset_ends_the_transaction(server: Server) -> None:
    async with opened(server, cleanup="reset") as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            await conn.execute("INSERT INTO notes VALUES (1, 'lost')")
        async with pool.connection() as conn:
            assert await backend(server, conn) == first
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0
            await conn.execute("INSERT INTO notes VALUES (2, 'kept')")
            await conn.commit()
        await pool.execute("INSERT INTO notes VALUES (3, 'kept')")
        with pytest.raises(pool.module.IntegrityError):
            await pool.execute("INSERT INTO notes VALUES (3, 'twice')")
        assert await pool.fetch_val("SELECT count(*) FROM notes") == 2
        assert pool.stats().created == 1
        assert written(server) == 2


@pytest.mark.parametrize("autocommit", [None, False, True])
@pytest.mark.parametrize("charset", [None, "latin1", "utf8mb4"])
async def test_a_reset_keeps_what_the_mysql_connection_was_made_with(
    mariadb: MariaDBServer, *, autocommit: bool | None, charset: str | None
) -> None:
    asked: dict[str, Any] = {
        "init_command": "SET @greeting = 'hello'",
        "sql_mode": "ANSI_QUOTES",
        "connect_kwargs": {"autocommit": autocommit} if autocommit is not None else {},
    }
    if charset is not None:
        asked["charset"] = charset
    look = (
        "SELECT @@autocommit, @@character_set_client, @@character_set_connection,"
        " @@character_set_results, @@collation_connection, @greeting, @@sql_mode, DATABASE(), 'é'"
    )
    async with opened(mariadb, cleanup="reset", **asked) as pool:
        async with pool.connection() as conn:
            first = await backend(mariadb, conn)
            before = await conn.fetch_one(look)
            await conn.execute("SET SESSION sql_mode = ''")
            await conn.execute("USE information_schema")
            await conn.execute("SET @greeting = 'bye'")
            await conn.autocommit(not autocommit)
        async with pool.connection() as conn:
            assert await backend(mariadb, conn) == first
            assert await conn.fetch_one(look) == before
            assert await conn.get_autocommit() is bool(autocommit)
    assert before[0] == bool(autocommit)
    assert charset in (None, before[1])
    assert before[-1] == "é"


async def test_a_reset_keeps_what_the_psycopg2_connection_was_made_with(
    postgres: PostgresServer,
) -> None:
    def setup(raw: Any) -> None:
        raw.set_session(isolation_level="SERIALIZABLE", readonly=True)

    look = (
        "SELECT current_setting('client_encoding'), current_setting('DateStyle'),"
        " current_setting('application_name'), current_setting('transaction_isolation'),"
        " current_setting('transaction_read_only'), 'é'"
    )
    asked = {"client_encoding": "latin1", "application_name": "shop", "setup": setup}
    async with opened(postgres, cleanup="reset", **asked) as pool:
        async with pool.connection() as conn:
            first = await backend(postgres, conn)
            before = await conn.fetch_one(look)
            await conn.rollback()
            conn.autocommit = True
            await conn.execute("SET application_name = 'other'")
            await conn.execute("SET client_encoding = 'utf8'")
        async with pool.connection() as conn:
            assert await backend(postgres, conn) == first
            assert await conn.fetch_one(look) == before
            assert conn.autocommit is False
    assert before == ("LATIN1", "ISO, MDY", "shop", "serializable", "on", "é")


@pytest.mark.usefixtures("notes")
async def test_a_borrower_may_change_autocommit_for_himself_only(server: Server) -> None:
    async with opened(server) as pool:
        async with pool.connection() as conn:
            if isinstance(server, PostgresServer):
                conn.autocommit = True
            else:
                await conn.autocommit(True)
            await conn.execute("INSERT INTO notes VALUES (1, 'kept')")
        assert written(server) == 1
        async with pool.connection() as conn:
            await conn.execute("INSERT INTO notes VALUES (2, 'lost')")
        assert written(server) == 1
        assert pool.stats().created == 1


async def test_no_cleanup_leaves_the_session_as_it_is(server: Server) -> None:
    if isinstance(server, PostgresServer):
        alter, look = "SET application_name = 'mine'", "SHOW application_name"
    else:
        alter, look = "SET @mine = 'mine'", "SELECT @mine"
    async with opened(server, cleanup=None) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            await conn.execute(alter)
            await conn.commit()
        async with pool.connection() as conn:
            assert await backend(server, conn) == first
            assert await conn.fetch_val(look) == "mine"
            await conn.commit()


@pytest.mark.usefixtures("notes")
async def test_without_cleanup_an_open_transaction_still_never_reaches_the_next_borrower(
    server: Server,
) -> None:
    async with opened(server, cleanup=None) as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT INTO notes VALUES (1, 'lost')")
        async with pool.connection() as conn:
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0
            await conn.commit()
        assert written(server) == 0


@pytest.mark.usefixtures("notes")
async def test_a_cleanup_of_ones_own_gets_the_driver_s_connection_on_its_thread(
    server: Server,
) -> None:
    calls: list[tuple[str, bool]] = []

    def cleanup(raw: Any) -> None:
        calls.append((threading.current_thread().name, hasattr(raw, "cursor")))
        raw.commit()

    async with opened(server, cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT INTO notes VALUES (1, 'kept by cleanup')")
        assert calls == [(threads(pool.name)[0], True)]
        assert written(server) == 1
        assert pool.idle == 1


@pytest.mark.usefixtures("notes")
async def test_a_cleanup_that_raises_discards_the_connection(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def cleanup(raw: Any) -> None:
        raise ZeroDivisionError

    caplog.set_level("INFO", "asyncdbpool")
    async with opened(server, cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            first = await backend(server, conn)
            await conn.execute("INSERT INTO notes VALUES (1, 'lost')")
        assert (pool.size, pool.stats().discarded) == (0, 1)
        assert "ZeroDivisionError" in caplog.text
        async with pool.connection(cleanup="rollback") as conn:
            assert await backend(server, conn) != first
            assert await conn.fetch_val("SELECT count(*) FROM notes") == 0
        assert pool.idle == 1


async def test_a_cleanup_that_leaves_a_transaction_open_discards_the_connection(
    postgres: PostgresServer,
) -> None:
    def cleanup(raw: Any) -> None:
        raw.cursor().execute("SELECT 1")

    async with opened(postgres, cleanup=cleanup) as pool:
        first = await backend(postgres, pool)
        async with pool.connection():
            pass
        assert pool.stats().discarded >= 1
        assert await backend(postgres, pool) != first


@pytest.mark.usefixtures("notes")
async def test_cleanup_can_be_chosen_for_each_use(server: Server) -> None:
    calls: list[str] = []

    def by_the_pool(raw: Any) -> None:
        calls.append("pool")
        raw.rollback()

    def by_the_use(raw: Any) -> None:
        calls.append("use")
        raw.commit()

    async with opened(server, cleanup=by_the_pool) as pool:
        conn = await pool.get()
        await conn.execute("INSERT INTO notes VALUES (1, 'lost')")
        await pool.put(conn)
        conn = await pool.get()
        await conn.execute("INSERT INTO notes VALUES (2, 'kept')")
        await pool.put(conn, cleanup=by_the_use)
        async with pool.connection(cleanup=by_the_use) as conn:
            await conn.execute("INSERT INTO notes VALUES (3, 'kept')")
        async with pool.connection(cleanup="rollback") as conn:
            await conn.execute("INSERT INTO notes VALUES (4, 'lost')")
        async with pool.connection(cleanup=None) as conn:
            await conn.execute("INSERT INTO notes VALUES (5, 'kept')")
            await conn.commit()
        async with pool.transaction(cleanup=by_the_use) as conn:
            await conn.execute("INSERT INTO notes VALUES (6, 'kept')")
        assert calls == ["pool", "use", "use", "use"]
        assert written(server) == 4
