"""What PostgreSQL's drivers have in common."""

from collections.abc import Mapping
from typing import Any

__all__ = ["DOUBLE", "committing_each", "dsn", "url", "with_dbname"]

DOUBLE = (
    "CREATE OR REPLACE FUNCTION doubled(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1 * 2'"
)


def committing_each(raw: Any) -> None:
    raw.autocommit = True


def with_dbname(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords as libpq has them."""
    return {"dbname" if key == "database" else key: value for key, value in login.items()}


def dsn(login: Mapping[str, Any]) -> str:
    """Return them as a string."""
    return " ".join(f"{key}='{value}'" for key, value in with_dbname(login).items())


def url(login: Mapping[str, Any]) -> str:
    """Return them as a URL."""
    account = f"{login['user']}:{login['password']}"
    return f"postgresql://{account}@{login['host']}:{login['port']}/{login['database']}"
