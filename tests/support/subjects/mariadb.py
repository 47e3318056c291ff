"""MariaDB Connector/Python on MariaDB."""

import mariadb.constants.CLIENT

from support.subjects import MARIADB, Subject
from support.subjects.mariadb_s import DOUBLE, by_socket, plainly, with_db

SUBJECT = Subject(
    name="mariadb",
    package="mariadb",
    like=MARIADB,
    module=mariadb,
    arguments=plainly,
    ways=lambda login: {"by the classic names": ((), with_db(plainly(login)))},
    by_socket=lambda login, socket: plainly(by_socket(login, socket)),
    by_file=lambda path: {"default_file": str(path)},
    changes={"placeholder": "?"},
    procedure=DOUBLE,
    several={"client_flag": mariadb.constants.CLIENT.MULTI_STATEMENTS},
    without={"names": "mariadb has no connect option for them, a cursor takes `dictionary=True`"},
)
