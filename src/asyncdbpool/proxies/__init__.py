"""What is lent: Connection, Cursor and Transaction, views that are revoked on return."""

from asyncdbpool.proxies.connection import Connection
from asyncdbpool.proxies.cursor import Cursor
from asyncdbpool.proxies.transaction import Transaction

__all__ = ["Connection", "Cursor", "Transaction"]
