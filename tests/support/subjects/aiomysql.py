"""aiomysql on MariaDB."""

from collections.abc import Mapping
from typing import Any

import aiomysql
from pymysql.constants import CLIENT

from support.lines import on_a_cursor
from support.subjects import MARIADB, Subject, by_a_method
from support.subjects.mariadb_s import DOUBLE, by_position, by_socket


def with_db(login: Mapping[str, Any]) -> dict[str, Any]:
    return {"db" if key == "database" else key: value for key, value in login.items()}


SUBJECT = Subject(
    name="aiomysql",
    package="aiomysql",
    like=MARIADB,
    module=aiomysql,
    native=True,
    arguments=with_db,
    ways=lambda login: {"by position": by_position(login)},
    by_socket=lambda login, socket: with_db(by_socket(login, socket)),
    by_file=lambda path: {"read_default_file": str(path)},
    by_name={"cursorclass": aiomysql.DictCursor},
    saying=on_a_cursor,
    commit_each=by_a_method,
    procedure=DOUBLE,
    several={"client_flag": CLIENT.MULTI_STATEMENTS},
    without={
        "PEP 249": "aiomysql is asyncio's own and no module of PEP 249's",
        "probe": "aiomysql does not read the flag that comes with rows",
        "closed cursors": "aiomysql's own still answer",
    },
)
