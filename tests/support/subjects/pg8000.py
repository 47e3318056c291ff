"""pg8000 on PostgreSQL."""

from collections.abc import Mapping
from typing import Any

from pg8000 import dbapi

from support.subjects import POSTGRES, Subject
from support.subjects.postgres import DOUBLE_IN_PLACE, committing_each


def arguments(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords; what libpq takes as `options` are parameters of the start here."""
    others = {key: value for key, value in login.items() if key != "options"}
    return {**others, "startup_params": {"lock_timeout": "10s"}}


SUBJECT = Subject(
    name="pg8000",
    package="pg8000",
    like=POSTGRES,
    module=dbapi,
    arguments=arguments,
    ways=lambda login: {
        "by position": (
            (login["user"], login["host"], login["database"], login["port"], login["password"]),
            {},
        ),
    },
    by_socket=lambda login, socket: {**arguments(login), "unix_sock": str(socket)},
    autocommits={"setup": committing_each},
    procedure=DOUBLE_IN_PLACE,  # its `CALL` is for procedures, and not for functions
    without={
        "option file": "pg8000 reads none",
        "names": "pg8000's rows are tuples only",
        "mappings": "pg8000's parameters have names only where its `paramstyle` is changed",
        "result sets": "pg8000 runs one statement at a time",
    },
)
