"""The classic module's own lines, with an `await` in front, still do what they did."""

import datetime

import MySQLdb
import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, DatabaseConnector, UnknownHost
from support.servers import MariaDBServer


async def test_a_connection_is_useless_once_it_was_put_back(mariadb: MariaDBServer) -> None:
    pool = ConnectionPool(
        MySQLdb,
        host=mariadb.host,
        port=mariadb.port,
        user=mariadb.user,
        passwd=mariadb.password,
    )
    conn = await pool.get()
    cursor = conn.cursor()
    await cursor.execute("SELECT NOW()")
    row = await cursor.fetchone()
    await pool.put(conn)

    assert isinstance(row[0], datetime.datetime)
    with pytest.raises(ConnectionReturned, match="borrow another connection"):
        conn.cursor()
    with pytest.raises(ConnectionReturned):
        await conn.execute("SELECT NOW()")
    with pytest.raises(ConnectionReturned):
        await conn.commit()
    with pytest.raises(ConnectionReturned):
        await conn.ping()
    with pytest.raises(ConnectionReturned):
        await cursor.execute("SELECT NOW()")
    with pytest.raises(ConnectionReturned):
        await cursor.fetchone()
    with pytest.raises(ConnectionReturned):
        _ = cursor.description
    assert pool.idle == 1, "the connection itself is well"
    await pool.close()


async def test_the_new_form_does_the_same_in_fewer_lines(mariadb: MariaDBServer) -> None:
    async with ConnectionPool(
        MySQLdb,
        host=mariadb.host,
        port=mariadb.port,
        user=mariadb.user,
        passwd=mariadb.password,
    ) as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT NOW()")
            (now,) = await cursor.fetchone()
        assert now <= await pool.fetch_val("SELECT NOW()")
        with pytest.raises(ConnectionReturned):
            await cursor.fetchone()


async def test_the_connector_has_a_pool_for_each_database_of_a_host(
    mariadb: MariaDBServer,
) -> None:
    dc = DatabaseConnector(
        MySQLdb,
        {mariadb.host: {"user": mariadb.user, "passwd": mariadb.password}},
        port=mariadb.port,
    )
    pool = dc.get(mariadb.host, mariadb.database)
    conn = await pool.get()
    try:
        cursor = await conn.execute("SELECT DATABASE(), CURRENT_USER()")
        assert await cursor.fetchone() == (mariadb.database, f"{mariadb.user}@%")
    finally:
        await pool.put(conn)

    assert dc.get(mariadb.host, mariadb.database) is pool
    assert dc.get(mariadb.host, "information_schema") is not pool
    with pytest.raises(ConnectionReturned):
        conn.cursor()
    await dc.close()


async def test_default_serves_the_hosts_that_have_no_credentials_of_their_own(
    mariadb: MariaDBServer,
) -> None:
    dc = DatabaseConnector(
        MySQLdb,
        {
            "db.internal.example.com": {"user": "internal", "passwd": "guess"},
            "default": {"user": mariadb.user, "passwd": mariadb.password},
        },
        port=mariadb.port,
    )
    async with dc, dc.connection(mariadb.host, mariadb.database) as conn:
        assert await conn.fetch_val("SELECT CURRENT_USER()") == f"{mariadb.user}@%"
        assert dc.credentials_for("db.internal.example.com") == {
            "user": "internal",
            "passwd": "guess",
        }


def test_without_default_an_unknown_host_is_told_which_ones_there_are() -> None:
    dc = DatabaseConnector(
        MySQLdb, {"red.example": {"passwd": "s33kr1t"}, "blue.example": {"passwd": "s33kr1t"}}
    )
    with pytest.raises(UnknownHost, match=r"'blue\.example', 'red\.example'") as caught:
        dc.get("localhost", "shop")
    assert "'localhost'" in str(caught.value)
    assert "s33kr1t" not in str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert len(dc) == 0
