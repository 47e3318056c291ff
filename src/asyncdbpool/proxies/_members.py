"""Telling a driver's methods from its values."""

from __future__ import annotations

from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any

__all__ = ["is_method"]


def is_method(raw: Any, name: str, value: Any) -> bool:
    """Tell a driver's method from a value that happens to be callable (a row factory, say)."""
    if not callable(value) or isinstance(value, type):
        return False
    declared = getattr(type(raw), name, None)
    if declared is not None:
        return callable(declared)
    owner = getattr(value, "__self__", None)
    return isinstance(value, (MethodType, BuiltinMethodType)) and not isinstance(
        owner, (ModuleType, type(None))
    )
