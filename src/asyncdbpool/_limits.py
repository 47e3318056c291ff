"""What a database says of its connections: how many there may be, and what that means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["DATABASES", "UNKNOWN", "Ask", "Database", "Limit"]

Ask = Callable[[str], Awaitable[Any]]
"""Runs a statement and gives its first row."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many connections a server allows.

    Attributes:
        most: At most, whoever makes them.
        reserved: How many of those are kept for administrators.
        in_use: How many there are now.
        whose: Whose limit it is.
    """

    most: int
    reserved: int
    in_use: int
    whose: str = "the server's"

    def __str__(self) -> str:
        kept = f", {self.reserved} of them kept for administrators" if self.reserved else ""
        return f"{self.most} at most, {self.whose} limit{kept}; {self.in_use} in use on the server"

    def advice(self) -> str:
        """Say what follows for `max_size`."""
        free = self.most - self.reserved
        sum_ = f"({self.most} - {self.reserved})" if self.reserved else str(self.most)
        return (
            f"N processes with a pool each: at most {sum_} / N, less what other clients need; "
            f"that is {free} for one process, {free // 4} for four"
        )


@dataclass(frozen=True, slots=True)
class Database:
    """A kind of database, and the statements that only it understands.

    Attributes:
        name: Its name.
        sign: A statement by which it is known; its first column is the version.
        slow: A statement that takes two seconds or more, unless it is cancelled.
        limit: Asks for its limit; None where it has none.
        bounds: What sets bounds there instead.
        advice: What follows from that for `max_size`.
    """

    name: str
    sign: str
    slow: str
    limit: Callable[[Ask], Awaitable[Limit]] | None = None
    bounds: str = ""
    advice: str = "N processes with a pool each: at most the server's limit / N"


async def _limit_of_postgres(ask: Ask) -> Limit:
    most, superusers, reserved, in_use, role, database = await ask(
        "SELECT CAST(current_setting('max_connections') AS integer),"
        " CAST(current_setting('superuser_reserved_connections') AS integer),"
        " CAST(coalesce(current_setting('reserved_connections', true), '0') AS integer),"
        " (SELECT CAST(sum(numbackends) AS integer) FROM pg_stat_database),"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database())"
    )
    limits = [Limit(most, superusers + reserved, in_use)]
    for allowed, whose in ((role, "this user's"), (database, "this database's")):
        if allowed >= 0:
            limits.append(Limit(allowed, 0, in_use, whose))
    return min(limits, key=lambda limit: limit.most - limit.reserved)


async def _limit_of_mysql(ask: Ask) -> Limit:
    most, of_user = await ask("SELECT @@max_connections, @@max_user_connections")
    _, in_use = await ask("SHOW STATUS LIKE 'Threads_connected'")
    if 0 < of_user < most:
        return Limit(of_user, 0, int(in_use), "this user's")
    return Limit(most, 0, int(in_use))


DATABASES = (
    Database(
        "PostgreSQL",
        sign="SELECT current_setting('server_version'), current_setting('max_connections')",
        slow="SELECT pg_sleep(2)",
        limit=_limit_of_postgres,
    ),
    Database(
        "MySQL or MariaDB",
        sign="SELECT @@version, @@max_user_connections",
        slow="SELECT SLEEP(2)",
        limit=_limit_of_mysql,
    ),
    Database(
        "DuckDB",
        sign="SELECT library_version FROM pragma_version()",
        slow=("SELECT count(*) FROM range(100000) a(x), range(100000) b(y) WHERE (x * y) % 7 = 3"),
        bounds="no limit: the database is in this process, which alone may write to its file",
        advice="few: each statement takes all the cores that it can get",
    ),
    Database(
        "SQLite",
        sign="SELECT sqlite_version()",
        slow=(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000000) "
            "SELECT max(n) FROM c"
        ),
        bounds="no limit: the database is in this process, and one connection writes at a time",
        advice="as many as are to read at once; more of them do not write faster",
    ),
)

UNKNOWN = Database(
    "unknown",
    sign="",
    slow="",
    bounds="not known: no statement tells it here",
)
