"""What no driver says of itself, one small file for each family; found by module name."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_origin

from asyncdbpool.drivers._registered import Registered
from asyncdbpool.drivers.base import BaseDriver, Unanswered
from asyncdbpool.drivers.dbapi import Driver
from asyncdbpool.drivers.native import NativeDriver

__all__ = ["BaseDriver", "Driver", "NativeDriver", "Unanswered", "find_driver"]

_KNOWN = {
    "sqlite3": "asyncdbpool.drivers.sqlite3:SQLite3Driver",
    "psycopg2": "asyncdbpool.drivers.psycopg2:Psycopg2Driver",
    "pg8000": "asyncdbpool.drivers.pg8000:Pg8000Driver",
    "pg8000.dbapi": "asyncdbpool.drivers.pg8000:Pg8000Driver",
    "psycopg": "asyncdbpool.drivers.psycopg:PsycopgDriver",
    "MySQLdb": "asyncdbpool.drivers.mysqldb:MySQLdbDriver",
    "pymysql": "asyncdbpool.drivers.pymysql:PyMySQLDriver",
    "mysql.connector": "asyncdbpool.drivers.mysql_connector:MySQLConnectorDriver",
    "mariadb": "asyncdbpool.drivers.mariadb:MariaDBDriver",
    "duckdb": "asyncdbpool.drivers.duckdb:DuckDBDriver",
    "pyodbc": "asyncdbpool.drivers.pyodbc:PyODBCDriver",
    "firebird.driver": "asyncdbpool.drivers.firebird:FirebirdDriver",
    "adbc_driver_sqlite.dbapi": "asyncdbpool.drivers.adbc:ADBCSQLiteDriver",
    "adbc_driver_postgresql.dbapi": "asyncdbpool.drivers.adbc:ADBCPostgreSQLDriver",
    "psycopg.AsyncConnection": "asyncdbpool.drivers.psycopg_async:PsycopgAsyncDriver",
    "asyncpg": "asyncdbpool.drivers.asyncpg:AsyncpgDriver",
    "aiomysql": "asyncdbpool.drivers.aiomysql:AiomysqlDriver",
    "asyncmy": "asyncdbpool.drivers.asyncmy:AsyncmyDriver",
}

_REGISTERED = Registered()
"""Looked up with the import, since a pool may be made on the loop."""


def find_driver(module: Any) -> BaseDriver:
    """Make the driver for a module.

    Looks among the library's own, then among those that other packages register in the
    entry-point group `asyncdbpool.drivers` (the entry point's name is the module's name, its
    value a subclass of `Driver` or `NativeDriver`), and takes the generic one for PEP 249 where
    nobody knows the module. A class that has a `connect` goes by its module's name and its own,
    or by those of a class that it is derived from.

    Raises:
        TypeError: The module has no `connect()`.
        PoolError: The driver that is registered cannot be made, or two are.
    """
    for name in _names(module):
        if name in _KNOWN:
            path, _, attribute = _KNOWN[name].partition(":")
            made: BaseDriver = getattr(import_module(path), attribute)(module)
            return made
        registered = _REGISTERED.make(name, module)
        if registered is not None:
            return registered
    return Driver(module)


def _names(module: Any) -> list[str]:
    """Return what a module, or a class in place of one, is found by."""
    module = get_origin(module) or module  # of a class with its type's arguments
    name = getattr(module, "__name__", type(module).__name__)
    if not isinstance(module, type):
        return [name]
    return [name, *(f"{each.__module__}.{each.__qualname__}" for each in module.__mro__)]
