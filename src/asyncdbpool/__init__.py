"""An asyncio connection pool for any DB-API 2.0 driver, and for asyncpg and aiomysql."""

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
