"""psycopg (version 3) on PostgreSQL, its blocking API."""

from typing import Any

import psycopg.rows

from support.subjects import POSTGRES, Subject
from support.subjects.postgres import by_socket, dsn, url, with_dbname


def with_keys(raw: psycopg.Connection[Any]) -> None:
    raw.row_factory = psycopg.rows.dict_row


SUBJECT = Subject(
    name="psycopg",
    package="psycopg",
    like=POSTGRES,
    module=psycopg,
    arguments=with_dbname,
    ways=lambda login: {
        "by a string": ((dsn(login),), {}),
        "by a URL": ((url(login),), {}),
        "by a string and keywords": (("dbname=nowhere",), with_dbname(login)),
    },
    by_socket=lambda login, socket: with_dbname(by_socket(login, socket)),
    by_file=lambda _path: {"service": "shop"},
    by_name={"setup": with_keys},
    without={"procedures": "psycopg 3 has no callproc()"},
)
