"""pyodbc with PostgreSQL's ODBC driver."""

from collections.abc import Mapping
from typing import Any

import pyodbc

from support.subjects import POSTGRES, Subject
from support.subjects.odbc import WITHOUT, by_a_string, keywords


def arguments(login: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **keywords(login),
        "DRIVER": "PostgreSQL Unicode",
        "connsettings": "SET lock_timeout TO '10s'",
    }


SUBJECT = Subject(
    name="pyodbc (PostgreSQL)",
    package="pyodbc",
    like=POSTGRES,
    module=pyodbc,
    arguments=arguments,
    ways=by_a_string("PostgreSQL Unicode"),
    by_socket=lambda login, socket: arguments({**login, "host": str(socket.parent)}),
    changes={"placeholder": "?"},
    many=-1,
    without=WITHOUT,
)
