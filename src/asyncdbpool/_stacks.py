"""Cheap snapshots of the call stack, formatted only if somebody reads them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Stack", "capture", "of_task", "render"]

Stack = tuple[tuple[CodeType, int], ...]

_DEPTH = 12
"""Frames kept; enough to find the caller, few enough to take on every lease."""

_STEP = asyncio.Handle._run.__code__  # noqa: SLF001 - the event loop's own, which calls a task

_MACHINERY = (
    str(Path(asyncio.__file__).parent) + os.sep,
    str(Path(__file__).parent) + os.sep,
    contextlib.__file__,
)


def capture(skip: int) -> Stack:
    """Remember the running code's callers, without their locals, leaving out `skip` frames."""
    frames: list[tuple[CodeType, int]] = []
    frame: FrameType | None = sys._getframe(skip + 1)  # noqa: SLF001 - as logging does
    for _ in range(_DEPTH):
        if frame is None or (code := frame.f_code) is _STEP:
            break
        frames.append((code, frame.f_lasti))
        frame = frame.f_back
    return tuple(frames)


def of_task(task: asyncio.Task[Any] | None) -> Stack:
    """Tell where a task waits now, as `capture()` would have there."""
    frames: list[tuple[CodeType, int]] = []
    waiting: Any = None if task is None else task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        frames.append((frame.f_code, frame.f_lasti))
        waiting = waiting.cr_await
    return tuple(reversed(frames))


def render(stack: Stack) -> str:
    """Format a stack like a traceback, oldest call first, without the machinery's frames."""
    summary = traceback.StackSummary.from_list(
        [
            (code.co_filename, _line(code, instruction), code.co_qualname, None)
            for code, instruction in reversed(stack)
            if not _is_machinery(code)
        ]
    )
    return "".join(summary.format()).rstrip()


def _line(code: CodeType, instruction: int) -> int:
    return max(
        (line or 0 for start, end, line in code.co_lines() if start <= instruction < end),
        default=code.co_firstlineno,
    )


def _is_machinery(code: CodeType) -> bool:
    """Tell the frames of the event loop and of this package, which say nothing to a reader."""
    return code.co_filename.startswith(_MACHINERY)
