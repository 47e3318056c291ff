"""For those who test code that uses a pool: a fake driver, a virtual clock, a checker.

The fake driver (`Fake`, `NativeFake`) fails, hangs or takes its time wherever a test wants it to;
in virtual time (`@virtual_time`) nothing ever sleeps; and `check_invariants()` proves of a pool,
over any driver, what the library promises.
"""

from asyncdbpool.testing.clock import (
    Clock,
    now,
    run_virtually,
    settle,
    sleep,
    virtual_runner,
    virtual_time,
)
from asyncdbpool.testing.fake import Fake, FakeConnection, FakeCursor, FakeDriver
from asyncdbpool.testing.gates import NEVER, Act, Gate
from asyncdbpool.testing.invariants import check_invariants
from asyncdbpool.testing.native import FakeNativeDriver, NativeFake, NativeFakeConnection

__all__ = [
    "NEVER",
    "Act",
    "Clock",
    "Fake",
    "FakeConnection",
    "FakeCursor",
    "FakeDriver",
    "FakeNativeDriver",
    "Gate",
    "NativeFake",
    "NativeFakeConnection",
    "check_invariants",
    "now",
    "run_virtually",
    "settle",
    "sleep",
    "virtual_runner",
    "virtual_time",
]
