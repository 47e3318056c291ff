"""A handle of the pool's own on a driver's socket: to look at it, and to shut it down."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

__all__ = ["Wire"]


class Wire:
    """A duplicate of the driver's descriptor, or nothing where there is none.

    The driver may close its own at any time, and the number be taken again by something else.
    """

    __slots__ = ("_fileno", "_poll", "_socket")

    def __init__(self, fileno: int | None) -> None:
        self._fileno = fileno
        self._socket = _duplicate(fileno)
        self._poll: select.poll | None = None
        if self._socket is not None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)

    def __bool__(self) -> bool:
        """Tell whether there is a socket."""
        return self._socket is not None

    @property
    def silent(self) -> bool:
        """True where nothing has come in, so far as one can look without I/O."""
        return self._poll is None or not self._poll.poll(0)

    def shut_down(self) -> None:
        """Shut the connection down, so that a call that waits for it comes back; any thread."""
        if self._socket is not None:
            with suppress(OSError):  # it is down already
                self._socket.shutdown(socket.SHUT_RDWR)

    def sever(self) -> None:
        """Put a dead socket in the place of the driver's, in this process alone."""
        if self._socket is None or self._fileno is None:
            return
        with self._socket as ours, suppress(OSError):  # the driver has closed its own
            if os.path.sameopenfile(ours.fileno(), self._fileno):
                dead, other = socket.socketpair()
                with dead, other:
                    os.dup2(dead.fileno(), self._fileno, inheritable=False)

    def close(self) -> None:
        """Give the handle back."""
        if self._socket is not None:
            self._socket.close()


def _duplicate(fileno: int | None) -> socket.socket | None:
    if fileno is None or os.name != "posix":
        return None
    duplicate = os.dup(fileno)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # something else than a socket
        os.close(duplicate)
        return None
