"""The private servers answer, keep strangers out and survive a restart."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import firebird.driver
import MySQLdb
import psycopg2
import pytest
from firebird.driver import DatabaseError

from support.servers import (
    SERVERS,
    FirebirdServer,
    MariaDBServer,
    PostgresServer,
    Server,
    free_port,
)
from support.subjects.firebird import firebird_on


@pytest.fixture(params=[PostgresServer, MariaDBServer])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may stop without asking the others."""
    with request.param() as server:
        yield server


def connect(server: Server, **changes: Any) -> Any:
    if isinstance(server, FirebirdServer):
        return firebird.driver.connect(**{**firebird_on(server).arguments, **changes})
    if isinstance(server, PostgresServer):
        return psycopg2.connect(**dsn(server) | changes)
    return MySQLdb.connect(**dsn(server) | changes)


def dsn(server: Server) -> dict[str, Any]:
    """The connect arguments that both drivers know."""
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": server.database,
    }


def ask(connection: Any, sql: str) -> Any:
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def test_postgres_tells_its_version(postgres: PostgresServer) -> None:
    with closing(connect(postgres)) as connection:
        assert ask(connection, "SELECT version()").startswith(f"PostgreSQL {postgres.version}")


def test_mariadb_tells_its_version(mariadb: MariaDBServer) -> None:
    with closing(connect(mariadb)) as connection:
        assert ask(connection, "SELECT version()").startswith(f"{mariadb.version}-MariaDB")


def test_firebird_tells_its_version(firebird: FirebirdServer) -> None:
    name = "RDB$GET_CONTEXT('SYSTEM', 'ENGINE_VERSION')"
    with closing(connect(firebird)) as connection:
        version = ask(connection, f"SELECT {name} FROM RDB$DATABASE")
    assert firebird.version.startswith(version)


def test_firebird_refuses_a_wrong_password(firebird: FirebirdServer) -> None:
    with pytest.raises(DatabaseError, match="user name and password are not defined"):
        connect(firebird, password="guess")


def test_postgres_refuses_a_wrong_password(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(postgres, password="guess")


def test_mariadb_refuses_a_wrong_password(mariadb: MariaDBServer) -> None:
    with pytest.raises(MySQLdb.OperationalError, match="Access denied"):
        connect(mariadb, password="guess")


def test_postgres_keeps_its_passwords_as_scram(postgres: PostgresServer) -> None:
    with closing(connect(postgres, user=postgres.admin)) as connection:
        stored = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{postgres.user}'"
        assert ask(connection, stored).startswith("SCRAM-SHA-256")


def test_servers_allow_as_many_connections_as_promised(
    postgres: PostgresServer, mariadb: MariaDBServer
) -> None:
    with closing(connect(postgres)) as connection:
        assert ask(connection, "SHOW max_connections") == "100"
    with closing(connect(mariadb)) as connection:
        assert ask(connection, "SELECT @@max_connections") == 151


def test_user_may_create_tables_and_data_survive_a_restart(own_server: Server) -> None:
    with closing(connect(own_server)) as connection:
        with closing(connection.cursor()) as cursor:
            cursor.execute("CREATE TABLE kept (answer int)")
            cursor.execute("INSERT INTO kept VALUES (42)")
        connection.commit()
    old_pid = own_server.pid

    own_server.restart()

    assert own_server.pid != old_pid
    with closing(connect(own_server)) as connection:
        assert ask(connection, "SELECT answer FROM kept") == 42


def test_restart_breaks_open_connections(own_server: Server) -> None:
    connection = connect(own_server)
    assert ask(connection, "SELECT 1") == 1

    own_server.restart()

    with pytest.raises((psycopg2.OperationalError, MySQLdb.OperationalError)):
        ask(connection, "SELECT 1")
    connection.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_stopped_server_leaves_nothing_behind(kind: type[Server]) -> None:
    server = kind()
    server.start()
    pid, folder = server.pid, server._home
    assert folder.exists()

    server.stop()
    server.stop()

    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


def test_ports_are_never_those_that_clients_are_given() -> None:
    assert all(20_000 <= free_port() < 30_000 for _ in range(100))
