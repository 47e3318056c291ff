"""MySQLdb (mysqlclient) on MariaDB."""

import MySQLdb.cursors

from support.subjects import MARIADB, Subject
from support.subjects.mariadb_s import DOUBLE, by_position, with_db

SUBJECT = Subject(
    name="MySQLdb",
    package="mysqlclient",
    like=MARIADB,
    module=MySQLdb,
    ways=lambda login: {
        "by position": by_position(login),
        "by the classic names": ((), with_db(login)),
    },
    by_name={"cursorclass": MySQLdb.cursors.DictCursor},
    procedure=DOUBLE,
)
