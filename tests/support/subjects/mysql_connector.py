"""MySQL Connector/Python on MariaDB."""

import mysql.connector

from support.subjects import MARIADB, Subject
from support.subjects.mariadb_s import DOUBLE, with_db

SUBJECT = Subject(
    name="mysql.connector",
    package="mysql-connector-python",
    like=MARIADB,
    module=mysql.connector,
    ways=lambda login: {"by the classic names": ((), with_db(login))},
    procedure=DOUBLE,
    without={
        "names": "mysql.connector has no connect option for them, a cursor takes `dictionary=True`"
    },
)
