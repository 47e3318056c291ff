"""A thin blocking facade of the proxies, for code that knows nothing but PEP 249.

It looks like the driver's module. Each call is made on an event loop in a background thread, which
is one for all, and waited for; nothing of PEP 249 is done here. One error has a translation: what
is used after its return raises the module's own `Error`, not `ConnectionReturned`. `close()` is
`pool.put()`, which refuses a second time; a proxy's own `close()` does nothing then.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from asyncdbpool import ConnectionPool, ConnectionReturned
from asyncdbpool.proxies import Connection, Cursor
from asyncdbpool.testing import check_invariants
from support.access import left_of
from support.loops import run

__all__ = ["facade"]

_PATIENCE = 30.0  # seconds for a call


@contextmanager
def facade(module: Any, /, **options: Any) -> Iterator[Any]:
    """Give what looks like a driver's module, and whose connections come from pools.

    In the end the pools are closed; the invariants hold, and no thread and no task is left.

    Args:
        module: The driver's.
        **options: The pools'.
    """
    with _background() as loop:
        front = _Module(module, partial(_on_loop, loop), options)
        try:
            yield front
        finally:
            for pool in front._pools:
                _on_loop(loop, _end, pool)


@contextmanager
def _background() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def stay() -> None:
        over = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), over))
        await over.wait()

    thread = threading.Thread(target=lambda: run(stay()), name="facade")
    thread.start()
    loop, over = begun.result(_PATIENCE)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def _on_loop(
    loop: asyncio.AbstractEventLoop, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call a function there, wait for what it gives, and return that."""

    async def call() -> Any:
        result = fn(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return asyncio.run_coroutine_threadsafe(call(), loop).result(_PATIENCE)


async def _end(pool: ConnectionPool) -> None:
    check_invariants(pool)
    await pool.close(1)
    check_invariants(pool)
    assert left_of(pool.name) == []


class _Module:
    def __init__(self, module: Any, call: Callable[..., Any], options: dict[str, Any]) -> None:
        self._module = module
        self._call = call
        self._options = options
        self._pools: list[ConnectionPool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        pool = ConnectionPool(self._module, *args, connect_kwargs=kwargs, **self._options)
        self._pools.append(pool)
        return _Connection(self, self._call(pool.get), pool)


class _Object:
    """A proxy whose methods block."""

    def __init__(self, module: _Module, proxy: Any) -> None:
        vars(self).update(_module=module, _proxy=proxy)

    def __getattr__(self, name: str) -> Any:
        value = self._do(getattr, self._proxy, name)
        return partial(self._do, value) if isinstance(value, (MethodType, partial)) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._do(setattr, self._proxy, name, value)

    def _do(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = self._module._call(fn, *args, **kwargs)
        except ConnectionReturned as returned:
            error = self._module.Error
            raise error.__new__(error, str(returned)) from returned  # some want more than words
        if isinstance(result, (Connection, Cursor)):
            return _Object(self._module, result)
        return result


class _Connection(_Object):
    """A lease, by `get()`, until `close()` puts it back."""

    def __init__(self, module: _Module, proxy: Connection, pool: ConnectionPool) -> None:
        super().__init__(module, proxy)
        vars(self).update(_pool=pool)

    def close(self) -> None:
        self._do(self._pool.put, self._proxy)
