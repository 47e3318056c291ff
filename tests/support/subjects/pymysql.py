"""PyMySQL on MariaDB."""

import pymysql.constants.CLIENT
import pymysql.cursors

from support.subjects import MARIADB, Subject, by_a_method
from support.subjects.mariadb_s import DOUBLE

SUBJECT = Subject(
    name="pymysql",
    package="pymysql",
    like=MARIADB,
    module=pymysql,
    by_name={"cursorclass": pymysql.cursors.DictCursor},
    commit_each=by_a_method,
    procedure=DOUBLE,
    several={"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS},
    without={
        "probe": "PyMySQL does not read the flag that comes with rows",
    },
)
