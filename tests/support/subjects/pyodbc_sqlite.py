"""pyodbc with SQLite's ODBC driver."""

import pyodbc

from support.activity import sqlite_by_odbc
from support.subjects import SQLITE, Subject
from support.subjects.odbc import WITHOUT

SUBJECT = Subject(
    name="pyodbc (SQLite)",
    package="pyodbc",
    like=SQLITE,
    module=pyodbc,
    arguments=lambda login: {**login, "DRIVER": "SQLite3"},
    ways=lambda login: {
        "by a string": ((f"DRIVER={{SQLite3}};DATABASE={login['database']}",), {}),
    },
    changes={"begin": None},
    many=-1,
    watch=sqlite_by_odbc,
    without={
        **WITHOUT,
        "result sets": "a statement of SQLite's has one result at most",
        "server": "SQLite is no server",
    },
)
