"""PyMySQL on MariaDB."""

import pymysql.constants.CLIENT
import pymysql.cursors

from support.subjects import MARIADB, Subject
from support.subjects.mariadb_s import DOUBLE, with_db

SUBJECT = Subject(
    name="pymysql",
    package="pymysql",
    like=MARIADB,
    module=pymysql,
    ways=lambda login: {"by the classic names": ((), with_db(login))},
    by_name={"cursorclass": pymysql.cursors.DictCursor},
    procedure=DOUBLE,
    several={"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS},
    without={
        "probe": "PyMySQL does not read the flag that comes with rows",
    },
)
