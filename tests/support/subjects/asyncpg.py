"""asyncpg on PostgreSQL."""

import asyncpg

from support.lines import on_the_connection
from support.subjects import POSTGRES, Subject
from support.subjects.postgres import url

LOCKS = {"server_settings": {"lock_timeout": "10s"}}

SUBJECT = Subject(
    name="asyncpg",
    package="asyncpg",
    like=POSTGRES,
    module=asyncpg,
    native=True,
    arguments=lambda login: {**{k: v for k, v in login.items() if k != "options"}, **LOCKS},
    ways=lambda login: {"by a URL": ((url(login),), LOCKS)},
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
