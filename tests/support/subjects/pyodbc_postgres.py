"""pyodbc with PostgreSQL's ODBC driver."""

import pyodbc

from support.subjects import POSTGRES, Subject
from support.subjects.odbc import WITHOUT, by_a_string, keywords

SUBJECT = Subject(
    name="pyodbc (PostgreSQL)",
    package="pyodbc",
    like=POSTGRES,
    module=pyodbc,
    arguments=lambda login: {
        **keywords(login),
        "DRIVER": "PostgreSQL Unicode",
        "connsettings": "SET lock_timeout TO '10s'",
    },
    ways=by_a_string("PostgreSQL Unicode"),
    changes={"placeholder": "?"},
    many=-1,
    without=WITHOUT,
)
