"""ADBC's driver for PostgreSQL."""

from dataclasses import replace

import adbc_driver_postgresql.dbapi

from support.subjects import POSTGRES, Subject
from support.subjects.arrow import WITHOUT
from support.subjects.postgres import by_socket, dsn, url

SUBJECT = Subject(
    name="ADBC (PostgreSQL)",
    package="adbc-driver-postgresql",
    like=replace(POSTGRES, setting=(POSTGRES.setting[0], "SELECT current_setting('work_mem')")),
    module=adbc_driver_postgresql.dbapi,
    own=lambda login: {"uri": dsn(login)},
    ways=lambda login: {
        "by a string": ((dsn(login),), {}),
        "by a URL": ((), {"uri": url(login)}),
        "by a URL and keywords": ((url({**login, "database": "nowhere"}),), dict(login)),
    },
    by_socket=by_socket,
    by_file=lambda _path: {"uri": "service=shop"},
    changes={"placeholder": "$"},
    without={
        **WITHOUT,
        "mappings": "PostgreSQL's own parameters have numbers",
        "socket": "ADBC does not tell it",
    },
)
