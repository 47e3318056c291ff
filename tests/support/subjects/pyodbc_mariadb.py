"""pyodbc with MariaDB's ODBC driver."""

from collections.abc import Mapping
from typing import Any

import pyodbc

from support.subjects import MARIADB, Subject
from support.subjects.odbc import WITHOUT, by_a_string, keywords


def arguments(login: Mapping[str, Any]) -> dict[str, Any]:
    return {**keywords(login), "DRIVER": "MariaDB Unicode"}


SUBJECT = Subject(
    name="pyodbc (MariaDB)",
    package="pyodbc",
    like=MARIADB,
    module=pyodbc,
    arguments=arguments,
    ways=by_a_string("MariaDB Unicode"),
    by_socket=lambda login, socket: {**arguments(login), "SOCKET": str(socket)},
    changes={"placeholder": "?"},
    many=-1,
    several={"OPTION": 1 << 26},
    without=WITHOUT,
)
