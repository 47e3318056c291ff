"""ADBC's driver for SQLite."""

from typing import Any

import adbc_driver_sqlite.dbapi

from support.subjects import SQLITE, Subject
from support.subjects.arrow import WITHOUT


async def committing_each(conn: Any) -> None:
    await conn.run(lambda raw: raw.adbc_connection.set_autocommit(True))


SUBJECT = Subject(
    name="ADBC (SQLite)",
    package="adbc-driver-sqlite",
    like=SQLITE,
    module=adbc_driver_sqlite.dbapi,
    arguments=lambda login: {"uri": login["database"]},
    ways=lambda login: {
        "by position": ((login["database"],), {}),
        "as a URI": ((f"file:{login['database']}?mode=rw",), {}),
    },
    changes={"begin": None},
    commit_each=committing_each,
    without={
        **WITHOUT,
        "counts": "ADBC's SQLite counts the rows of execute_many only",
        "mappings": "ADBC's SQLite wants the names with their colons",
        "cancel": "ADBC's SQLite says NOT_IMPLEMENTED, and SQLite itself cannot be reached",
        "server": "SQLite is no server",
        "socket": "SQLite is no server",
        "reset": "SQLite's sessions cannot be reset, so the connection is closed instead",
        "probe": "ADBC's SQLite does not tell whether a transaction is open",
    },
)
