"""The points at which a coroutine waits, and a cancellation at any of them, to the very tick."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal

__all__ = ["MOMENTS", "Moment", "cancelled_at"]

Moment = Literal["as it begins to wait", "while it waits", "in the tick in which its wait is over"]
MOMENTS: tuple[Moment, ...] = (
    "as it begins to wait",
    "while it waits",
    "in the tick in which its wait is over",
)


async def cancelled_at(
    point: int, moment: Moment, work: Callable[[], Awaitable[object]], *, within: float = 0.5
) -> bool:
    """Run it in a task that is cancelled at the n-th of its await points, and must not swallow it.

    Args:
        point: The number of the await point, from 1.
        moment: When it is cancelled there.
        work: Makes what is awaited.
        within: Seconds after which it is cancelled while it waits, unless the wait is over.

    Returns:
        False where it has ended before it came to that point.
    """
    reached: list[bool] = []
    cancelled: list[bool] = []

    def cancel() -> None:
        cancelled.append(task.cancel())

    def cancel_unless_over(future: Any) -> None:
        if not future.done():
            cancel()

    def arrive(future: Any) -> None:
        reached.append(True)
        if future is None or moment == "as it begins to wait":
            cancel()
        elif moment == "while it waits":
            asyncio.get_running_loop().call_later(within, cancel_unless_over, future)
        else:
            future.add_done_callback(lambda _: cancel())  # ahead of the task's own wake-up

    async def whole() -> None:
        await _watched(work(), point, arrive)

    task = asyncio.create_task(whole())
    await asyncio.wait([task])
    if not task.cancelled():
        assert not any(cancelled), "the cancellation was swallowed"
        task.result()
    return bool(reached)


@types.coroutine
def _watched(
    work: Awaitable[object], point: int, arrive: Callable[[Any], None]
) -> Generator[Any, Any, None]:
    """Await it as `yield from` would, and tell when it waits for the n-th time."""
    steps = work.__await__()
    error: BaseException | None = None
    while True:
        try:
            future = next(steps) if error is None else steps.throw(error)
        except StopIteration:
            return
        point -= 1
        if point == 0:
            arrive(future)
        error = None
        try:
            yield future
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's own affair
            error = raised
