"""What the drivers of MariaDB and MySQL have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DOUBLE", "DOUBLE_IN_PLACE", "by_position", "by_socket", "plainly", "with_db"]

DOUBLE = "CREATE OR REPLACE PROCEDURE doubled(IN number INTEGER) SELECT number * 2 AS twice"
DOUBLE_IN_PLACE = (
    "CREATE OR REPLACE PROCEDURE doubled(INOUT number INTEGER) SET number = number * 2"
)


def by_position(login: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the classic modules take by position, and what is left."""
    first = ("host", "user", "password", "database")
    others = {key: value for key, value in login.items() if key not in first}
    return tuple(login[key] for key in first), others


def by_socket(login: Mapping[str, Any], socket: Path) -> dict[str, Any]:
    """Return the keywords with a Unix socket in the place of host and port."""
    others = {key: value for key, value in login.items() if key not in ("host", "port")}
    return {**others, "unix_socket": str(socket)}


def with_db(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with the classic names."""
    return {{"database": "db", "password": "passwd"}.get(k, k): v for k, v in login.items()}


def plainly(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords without the character set, where a module has no choice of it."""
    return {key: value for key, value in login.items() if key != "charset"}
