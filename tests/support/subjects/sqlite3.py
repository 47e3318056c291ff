"""sqlite3: the embedded database of the standard library."""

import sqlite3
from typing import Any

from support.subjects import SQLITE, Subject


def with_names(raw: sqlite3.Connection) -> None:
    raw.row_factory = sqlite3.Row


async def commit_each(conn: Any) -> None:
    conn.isolation_level = None


SUBJECT = Subject(
    name="sqlite3",
    package=None,
    like=SQLITE,
    module=sqlite3,
    ways=lambda login: {
        "by position": ((login["database"],), {}),
        "as a URI": ((f"file:{login['database']}?mode=rw",), {"uri": True}),
    },
    named=r":\1",
    by_name={"setup": with_names},
    autocommits={"isolation_level": None},
    commit_each=commit_each,
    without={
        "procedures": "SQLite has no stored procedures",
        "result sets": "a statement of SQLite's has one result at most",
        "server": "SQLite is no server",
        "socket": "SQLite is no server",
        "reset": "SQLite's sessions cannot be reset, so the connection is closed instead",
    },
)
