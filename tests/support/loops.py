"""Event loops of a test's own, of the kind that `ASYNCDBPOOL_LOOP` names."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run()` does, on a new loop that is closed afterwards."""
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(work)


def _factory() -> Any:
    if os.environ.get("ASYNCDBPOOL_LOOP") == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
