"""What PostgreSQL's drivers have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "DOUBLE",
    "DOUBLE_IN_PLACE",
    "by_socket",
    "committing_each",
    "dsn",
    "url",
    "with_dbname",
]

REPLACE = (
    "DO 'BEGIN DROP ROUTINE IF EXISTS doubled(integer);"
    " CREATE {} LANGUAGE sql AS $body$ SELECT $1 * 2 $body$; END'"
)
DOUBLE = REPLACE.format("FUNCTION doubled(integer) RETURNS integer")
DOUBLE_IN_PLACE = REPLACE.format("PROCEDURE doubled(INOUT number integer)")


def committing_each(raw: Any) -> None:
    raw.autocommit = True


def with_dbname(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords as libpq has them."""
    return {"dbname" if key == "database" else key: value for key, value in login.items()}


def by_socket(login: Mapping[str, Any], socket: Path) -> dict[str, Any]:
    """Return the keywords with the folder of a Unix socket in the host's place."""
    return {**login, "host": str(socket.parent)}


def dsn(login: Mapping[str, Any]) -> str:
    """Return them as a string."""
    return " ".join(f"{key}='{value}'" for key, value in with_dbname(login).items())


def url(login: Mapping[str, Any]) -> str:
    """Return them as a URL."""
    account = f"{login['user']}:{login['password']}"
    return f"postgresql://{account}@{login['host']}:{login['port']}/{login['database']}"
