"""PyMySQL: MySQL and MariaDB in pure Python."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from asyncdbpool.drivers._mysql import IN_TRANSACTION
from asyncdbpool.drivers._mysql_kin import MySQLKin

__all__ = ["PyMySQLDriver"]

_RESET_CONNECTION = 0x1F  # COM_RESET_CONNECTION

_TLS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity")


class PyMySQLDriver(MySQLKin):
    """PyMySQL sees the server's flags with some answers only.

    With those that are no rows, that is; so outside of autocommit every `SELECT` may have begun a
    transaction that it does not know of.
    """

    def fileno(self, raw: Any) -> int | None:
        """Ask the socket, which has no public name."""
        return super().fileno(raw._sock)  # noqa: SLF001 - as said

    def in_transaction(self, raw: Any) -> bool | None:
        """Believe in a yes; a no is certain in autocommit only."""
        if raw.server_status & IN_TRANSACTION:
            return True
        return False if raw.get_autocommit() else None

    def learn(self, raw: Any) -> bool | None:
        """Look at the answer itself, which is certain."""
        super().learn(raw)
        return bool(raw.server_status & IN_TRANSACTION)

    def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        raw.ping(reconnect=False)

    def remember(self, raw: Any) -> Any:
        """Take down also the character set, and the number: a ping may connect anew."""
        return raw.get_autocommit(), (raw.charset, raw.collation), raw.thread_id()

    def restore(self, raw: Any, memory: Any) -> None:
        """Set them again, without I/O where nothing has changed."""
        autocommit, charset, number = memory
        if raw.thread_id() != number:
            raise self.module.InterfaceError("this is another connection, which nobody has set up")
        raw.autocommit(autocommit)
        if (raw.charset, raw.collation) != charset:
            raw.set_character_set(*charset)

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_RESET_CONNECTION`, and what the module does after a connect."""
        raw._execute_command(_RESET_CONNECTION, "")  # noqa: SLF001 - it has no other name
        raw._read_ok_packet()  # noqa: SLF001 - as above
        raw.set_character_set(raw.charset, raw.collation)
        if raw.db:
            raw.select_db(raw.db)
        if raw.sql_mode is not None:
            self.command(raw, f"SET sql_mode={raw.escape(raw.sql_mode)}")
        if raw.init_command is not None:
            self.command(raw, raw.init_command)
            raw.commit()

    def side_keywords(self, raw: Any) -> Mapping[str, Any]:
        """Set nothing up; and share the TLS context, which takes long to make, or do without."""
        plainly = dict.fromkeys(("init_command", "sql_mode", "autocommit", *_TLS))
        if isinstance(raw._sock, ssl.SSLSocket):  # noqa: SLF001 - as above
            return {**plainly, "ssl": raw.ctx}
        return {**plainly, "ssl_disabled": True}

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Look also whether the module has closed its socket, as it does where it loses track."""
        return not raw.open or super().is_disconnect(error, raw)

    def is_transient(self, error: BaseException) -> bool:
        """A host without an address has the number of one that refuses."""
        cause = getattr(error, "original_exception", None)
        return super().is_transient(error) and not isinstance(cause, socket.gaierror)
