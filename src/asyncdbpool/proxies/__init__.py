"""What is lent: connections, cursors and transactions, views that are revoked on return."""

from asyncdbpool._lease import Lease
from asyncdbpool.proxies.connection import Connection
from asyncdbpool.proxies.cursor import Cursor
from asyncdbpool.proxies.native import NativeConnection
from asyncdbpool.proxies.transaction import Transaction

__all__ = ["Connection", "Cursor", "NativeConnection", "Transaction", "proxy_for"]


def proxy_for(lease: Lease) -> Connection:
    """Make the borrower's view of the connection that a lease is for."""
    return (NativeConnection if lease.session.driver.native else Connection)(lease)
