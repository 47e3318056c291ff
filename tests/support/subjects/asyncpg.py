"""asyncpg on PostgreSQL."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from support.lines import on_the_connection
from support.subjects import POSTGRES, Subject
from support.subjects.postgres import by_socket, url

LOCKS = {"server_settings": {"lock_timeout": "10s"}}


def arguments(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords; what libpq takes as `options` are settings here."""
    return {**{k: v for k, v in login.items() if k != "options"}, **LOCKS}


SUBJECT = Subject(
    name="asyncpg",
    package="asyncpg",
    like=POSTGRES,
    module=asyncpg,
    native=True,
    arguments=arguments,
    ways=lambda login: {"by a URL": ((url(login),), LOCKS)},
    by_socket=lambda login, socket: arguments(by_socket(login, socket)),
    by_file=lambda path: {"dsn": "postgresql://?service=shop", "servicefile": str(path)},
    changes={"placeholder": "$"},
    named="?",
    many=-1,
    guest=("prepare", "fetchrow"),
    saying=on_the_connection,
    without={
        "PEP 249": "asyncpg is asyncio's own and no module of PEP 249's",
        "autocommit": "asyncpg always commits each statement outside of a block",
        "cursors": "asyncpg's connection has its own API, which is passed through",
        "procedures": "asyncpg has no callproc()",
        "result sets": "asyncpg keeps the last result of several",
    },
)
