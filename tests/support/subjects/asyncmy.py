"""asyncmy on MariaDB."""

import asyncmy
import asyncmy.constants.CLIENT
import asyncmy.cursors

from support.lines import on_a_cursor
from support.subjects import MARIADB, Subject, by_a_method
from support.subjects.mariadb_s import DOUBLE, by_socket

SUBJECT = Subject(
    name="asyncmy",
    package="asyncmy",
    like=MARIADB,
    module=asyncmy,
    native=True,
    ways=lambda login: {
        "by the classic names": (
            (),
            {"db" if key == "database" else key: value for key, value in login.items()},
        )
    },
    by_socket=by_socket,
    by_file=lambda path: {"read_default_file": str(path)},
    by_name={"cursor_cls": asyncmy.cursors.DictCursor},
    saying=on_a_cursor,
    commit_each=by_a_method,
    procedure=DOUBLE,
    several={"client_flag": asyncmy.constants.CLIENT.MULTI_STATEMENTS},
    without={
        "closed cursors": "asyncmy's own still answer",
        "PEP 249": "asyncmy is asyncio's own and no module of PEP 249's",
    },
)
