"""firebird-driver on Firebird."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import firebird.driver

from support.activity import Activity
from support.databases import Database
from support.servers import FirebirdServer
from support.subjects import Kind, Subject

COUNT = (
    "EXECUTE BLOCK RETURNS (token VARCHAR(40), n BIGINT) AS BEGIN n = 0; token = '{token}';"
    " WHILE ({condition}) DO n = n + 1; n = 0; SUSPEND; END"
)
STEPS = 3_000_000  # of that in a second, more or less


def dsn(server: FirebirdServer) -> str:
    return f"{server.host}/{server.port}:{server.path}"


def firebird_on(server: FirebirdServer) -> Database:
    """Describe a server's database."""
    return Database(
        module=firebird.driver,
        arguments={"database": dsn(server), "user": server.user, "password": server.password},
        placeholder="?",
        series=(
            "EXECUTE BLOCK RETURNS (n INTEGER, label VARCHAR(40)) AS BEGIN n = 0;"
            " WHILE (n < {count}) DO BEGIN n = n + 1; label = 'row ' || n; SUSPEND; END END"
        ),
        modes={"by the module": {}},
        server="firebird",
        dual=" FROM RDB$DATABASE",
        begin=None,
        creates=(
            "EXECUTE BLOCK AS BEGIN IF (NOT EXISTS (SELECT 1 FROM RDB$RELATIONS"
            " WHERE RDB$RELATION_NAME = UPPER('{table}'))) THEN"
            " EXECUTE STATEMENT 'CREATE TABLE {table} ({columns})'; END"
        ),
        inserts=insert,
    )


def insert(*ids: int) -> str:
    """Return a statement for rows of the table `wares`: `VALUES` takes one only."""
    rows = (f"SELECT {n}, 'item {n}' FROM RDB$DATABASE" for n in ids)
    return f"INSERT INTO wares {' UNION ALL '.join(rows)}"


@contextmanager
def administrator(database: str) -> Iterator[Any]:
    """A cursor that may do everything."""
    user, password = FirebirdServer.admin, FirebirdServer.password
    with closing(firebird.driver.connect(database, user=user, password=password)) as raw:
        with closing(raw.cursor()) as cursor:
            yield cursor
        raw.commit()


class Monitored(Activity):
    """Firebird tells its administrator what runs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, COUNT.format(token="", condition="1 = 1"))

    def saying(self, token: str, seconds: float) -> str:
        return COUNT.format(token=token, condition=f"n < {int(seconds * STEPS)}")

    async def running(self) -> int:
        return self._count(
            "MON$STATEMENTS JOIN MON$ATTACHMENTS USING (MON$ATTACHMENT_ID)"
            " WHERE MON$STATEMENTS.MON$STATE = 1"
        )

    def connections(self) -> int:
        return self._count("MON$ATTACHMENTS WHERE true")

    def _count(self, source: str) -> int:
        user = self.database.arguments["user"].upper()
        with administrator(self.database.arguments["database"]) as cursor:
            cursor.execute(f"SELECT count(*) FROM {source} AND MON$USER = '{user}'")
            return int(cursor.fetchone()[0])


def kill(server: FirebirdServer, backend: int) -> None:
    """End a connection on the server."""
    with administrator(dsn(server)) as cursor:
        cursor.execute(f"DELETE FROM MON$ATTACHMENTS WHERE MON$ATTACHMENT_ID = {backend}")


SUBJECT = Subject(
    name="firebird-driver",
    package="firebird-driver",
    like=Kind(
        title="Firebird",
        place="firebird",
        describe=firebird_on,
        setting=(
            "EXECUTE BLOCK AS DECLARE done INTEGER; BEGIN"
            " done = RDB$SET_CONTEXT('USER_SESSION', 'left', '1234'); END",
            "SELECT RDB$GET_CONTEXT('USER_SESSION', 'left') FROM RDB$DATABASE",
        ),
        backend="CURRENT_CONNECTION",
        kill=kill,
    ),
    module=firebird.driver,
    ways=lambda login: {
        "by position": ((login["database"],), {k: login[k] for k in ("user", "password")}),
    },
    many=1,
    watch=Monitored,
    procedure=(
        "CREATE OR ALTER PROCEDURE doubled (number INTEGER) RETURNS (twice INTEGER) AS"
        " BEGIN twice = number * 2; SUSPEND; END"
    ),
    without={
        "autocommit": "Firebird has none",
        "names": "firebird-driver's rows are tuples only",
        "mappings": "Firebird has no named parameters",
        "result sets": "a statement of Firebird's has one result at most",
        "socket": "Firebird's client library does not tell it",
        "reset": "Firebird 3 cannot reset a session, so the connection is closed instead",
        "option file": "firebird-driver reads its own when told to, not when it connects",
        "Unix socket": "Firebird's server listens on TCP only",
        "kills under load": "Firebird may never answer a client that is killed in mid-call",
        "port": "the host and its port are a part of the database's name",
    },
)
