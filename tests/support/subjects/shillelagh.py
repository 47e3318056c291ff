"""Shillelagh, SQL over files and APIs, in this process: no file of the library's is for it.

Its tables are in a file of SQLite's here, by which others see what it does; those over files of
another kind have tests of their own.
"""

import apsw
import shillelagh.backends.apsw.db

from support.subjects import SQLITE, Subject

SUBJECT = Subject(
    name="shillelagh",
    package="shillelagh",
    like=SQLITE,
    module=shillelagh.backends.apsw.db,
    arguments=lambda login: {"path": login["database"], "adapters": ["csvfile"]},
    ways=lambda login: {"by position": ((login["database"], ["csvfile"]), {})},
    changes={"begin": None, "raises": (apsw.Error,)},
    uncounted=0,
    without={
        # With an `isolation_level`, each of its cursors begins a transaction, the second in vain.
        "transactions": "Shillelagh commits each statement, and its rollback() does nothing",
        "autocommit": "Shillelagh always commits each statement",
        "savepoints": "Shillelagh has no transactions that they could be in",
        "names": "Shillelagh's rows are tuples only",
        "mappings": "Shillelagh's parameters have no names",
        "refusal of mappings": "Shillelagh takes the keys of a mapping for its values",
        "counts": "Shillelagh counts no rows that change",
        "executemany": "Shillelagh's executemany() says that it is not supported",
        "procedures": "SQLite has no stored procedures",
        "result sets": "a statement of SQLite's has one result at most",
        "server": "SQLite is no server",
        "socket": "SQLite is no server",
        "database keyword": "Shillelagh's is `path`, of which the library knows nothing",
        "cancel": "Shillelagh's connections have neither interrupt() nor cancel()",
        "probe": "Shillelagh does not tell whether a transaction is open",
        "reset": "SQLite's sessions cannot be reset, so the connection is closed instead",
    },
)
