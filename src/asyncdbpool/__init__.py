"""The asyncio connection pool for every Python database driver."""

from asyncdbpool.connector import DatabaseConnector
from asyncdbpool.drivers import Driver, NativeDriver
from asyncdbpool.errors import (
    ConnectionReturned,
    ConnectTimeout,
    PoolClosed,
    PoolDeadlock,
    PoolError,
    PoolTimeout,
    TooManyWaiters,
    UnknownHost,
    WrongEventLoop,
)
from asyncdbpool.pool import ConnectionPool
from asyncdbpool.proxies import Connection, Cursor, NativeConnection, Transaction
from asyncdbpool.stats import LeaseInfo, PoolStats

__all__ = [
    "ConnectTimeout",
    "Connection",
    "ConnectionPool",
    "ConnectionReturned",
    "Cursor",
    "DatabaseConnector",
    "Driver",
    "LeaseInfo",
    "NativeConnection",
    "NativeDriver",
    "PoolClosed",
    "PoolDeadlock",
    "PoolError",
    "PoolStats",
    "PoolTimeout",
    "TooManyWaiters",
    "Transaction",
    "UnknownHost",
    "WrongEventLoop",
]
