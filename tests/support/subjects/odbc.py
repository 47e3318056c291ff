"""What pyodbc is without, whatever the database."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["WITHOUT", "by_a_string", "keywords"]

WITHOUT = {
    "option file": "ODBC's own is `odbc.ini`, for the whole machine or account",
    "names": "pyodbc's rows have attributes, no keys",
    "mappings": "ODBC has no named parameters",
    "procedures": "pyodbc has no callproc(), it runs `{CALL ...}`",
    "socket": "ODBC does not tell it",
    "reset": "ODBC has none, so the connection is closed instead",
    "probe": "ODBC does not tell whether a transaction is open",
}


def keywords(login: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that every ODBC driver takes."""
    return {key: login[key] for key in ("host", "port", "user", "password", "database")}


def by_a_string(driver: str) -> Callable[[Mapping[str, Any]], Any]:
    """Make what makes a connection string."""

    def ways(login: Mapping[str, Any]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
        names = {"host": "SERVER", "user": "UID", "password": "PWD"}
        words = {"DRIVER": f"{{{driver}}}", **keywords(login)}
        text = ";".join(f"{names.get(key, key.upper())}={value}" for key, value in words.items())
        return {"by a string": ((text,), {})}

    return ways
