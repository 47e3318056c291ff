"""pyodbc with MariaDB's ODBC driver."""

import pyodbc

from support.subjects import MARIADB, Subject
from support.subjects.odbc import WITHOUT, by_a_string, keywords

SUBJECT = Subject(
    name="pyodbc (MariaDB)",
    package="pyodbc",
    like=MARIADB,
    module=pyodbc,
    arguments=lambda login: {**keywords(login), "DRIVER": "MariaDB Unicode"},
    ways=by_a_string("MariaDB Unicode"),
    changes={"placeholder": "?"},
    many=-1,
    several={"OPTION": 1 << 26},
    without=WITHOUT,
)
