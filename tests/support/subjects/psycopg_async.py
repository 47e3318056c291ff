"""psycopg (version 3) on PostgreSQL, its API for asyncio."""

from typing import Any

import psycopg.rows

from support.lines import on_a_cursor
from support.subjects import POSTGRES, Subject
from support.subjects.postgres import by_socket, dsn, url, with_dbname


async def by_a_coroutine(conn: Any) -> None:
    await conn.set_autocommit(True)


SUBJECT = Subject(
    name="psycopg (asyncio)",
    package="psycopg",
    like=POSTGRES,
    module=psycopg.AsyncConnection,
    native=True,
    arguments=with_dbname,
    ways=lambda login: {
        "by a string": ((dsn(login),), {}),
        "by a URL": ((url(login),), {}),
        "by a string and keywords": (("dbname=nowhere",), with_dbname(login)),
    },
    by_socket=lambda login, socket: with_dbname(by_socket(login, socket)),
    by_file=lambda _path: {"service": "shop"},
    by_name={"row_factory": psycopg.rows.dict_row},
    saying=on_a_cursor,
    commit_each=by_a_coroutine,
    without={
        "procedures": "psycopg 3 has no callproc()",
        "PEP 249": "psycopg's connections for asyncio are no module of PEP 249's",
    },
)
