"""psycopg2 on PostgreSQL."""

import psycopg2.extras

from support.subjects import POSTGRES, Subject
from support.subjects.postgres import DOUBLE, by_socket, committing_each, dsn, url, with_dbname

SUBJECT = Subject(
    name="psycopg2",
    package="psycopg2-binary",
    like=POSTGRES,
    module=psycopg2,
    ways=lambda login: {
        "by a string": ((dsn(login),), {}),
        "by a URL": ((url(login),), {}),
        "by a string and keywords": (("dbname=nowhere",), with_dbname(login)),
    },
    by_socket=by_socket,
    by_file=lambda _path: {"service": "shop"},
    by_name={"cursor_factory": psycopg2.extras.DictCursor},
    autocommits={"setup": committing_each},
    procedure=DOUBLE,
    without={"result sets": "psycopg2 keeps the last result of several"},
)
