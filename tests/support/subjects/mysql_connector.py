"""MySQL Connector/Python on MariaDB."""

import mysql.connector

from support.subjects import MARIADB, Subject
from support.subjects.mariadb_s import DOUBLE_IN_PLACE, by_socket, with_db

SUBJECT = Subject(
    name="mysql.connector",
    package="mysql-connector-python",
    like=MARIADB,
    module=mysql.connector,
    ways=lambda login: {"by the classic names": ((), with_db(login))},
    by_socket=by_socket,
    by_file=lambda path: {"option_files": str(path)},
    procedure=DOUBLE_IN_PLACE,  # it keeps the rows of a procedure in cursors of their own
    twice=lambda returned, _rows: returned[0],
    without={
        "names": "mysql.connector has no connect option for them, a cursor takes `dictionary=True`"
    },
)
