"""DuckDB, in this process."""

import duckdb

from support.activity import duck
from support.databases import duckdb_at
from support.subjects import Kind, Subject

SUBJECT = Subject(
    name="duckdb",
    package="duckdb",
    like=Kind(
        title="DuckDB",
        place="tmp_path",
        describe=duckdb_at,
        setting=("SET threads = 2", "SELECT current_setting('threads')"),
    ),
    module=duckdb,
    ways=lambda login: {"by position": ((login["database"],), {"config": {"threads": 1}})},
    named=r"$\1",
    watch=duck,
    without={
        "autocommit": "DuckDB always commits each statement outside of a block",
        "names": "DuckDB's rows are tuples only",
        "savepoints": "DuckDB has none",
        "procedures": "DuckDB has no stored procedures",
        "result sets": "DuckDB keeps the last result of several",
        "server": "DuckDB is no server",
        "socket": "DuckDB is no server",
        "reset": "DuckDB's sessions cannot be reset, so the connection is closed instead",
    },
)
