"""MySQLdb (mysqlclient) on MariaDB."""

import MySQLdb.cursors

from support.subjects import MARIADB, Subject, by_a_method
from support.subjects.mariadb_s import DOUBLE, by_position, by_socket, with_db

SUBJECT = Subject(
    name="MySQLdb",
    package="mysqlclient",
    like=MARIADB,
    module=MySQLdb,
    ways=lambda login: {
        "by position": by_position(login),
        "by the classic names": ((), with_db(login)),
    },
    by_socket=by_socket,
    by_file=lambda path: {"read_default_file": str(path)},
    by_name={"cursorclass": MySQLdb.cursors.DictCursor},
    commit_each=by_a_method,
    procedure=DOUBLE,
)
