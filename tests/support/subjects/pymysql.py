"""PyMySQL on MariaDB."""

import pymysql.cursors
from pymysql.constants import CLIENT

from support.subjects import MARIADB, Subject, by_a_method
from support.subjects.mariadb_s import DOUBLE, by_socket

SUBJECT = Subject(
    name="pymysql",
    package="pymysql",
    like=MARIADB,
    module=pymysql,
    by_socket=by_socket,
    by_file=lambda path: {"read_default_file": str(path)},
    by_name={"cursorclass": pymysql.cursors.DictCursor},
    commit_each=by_a_method,
    procedure=DOUBLE,
    several={"client_flag": CLIENT.MULTI_STATEMENTS},
    without={
        "probe": "PyMySQL does not read the flag that comes with rows",
    },
)
