"""The classic compliance suite for PEP 249, `dbapi20`, which comes as a package.

What it leaves to each driver is filled in; else it runs as it is.
"""

import unittest
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dbapi20

from support.databases import Database
from support.facade import facade
from support.subjects import Subject

__all__ = ["TESTS", "Verdict", "judged"]

_PLACEHOLDERS = {"test_setoutputsize"}  # it only asks for another; ..._basic is the suite's own

_LOWER = "CREATE OR REPLACE PROCEDURE lower(IN word VARCHAR(20)) SELECT LOWER(word)"


class _Compliance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc] # no types
    """The suite, for one driver and database.

    It closes the connections that it leaves behind, as each leaves the tables that it has made.
    """

    subject: Subject
    database: Database

    def setUp(self) -> None:
        self._made: list[Any] = []

    def _connect(self) -> Any:
        self._made.append(super()._connect())
        return self._made[-1]

    def tearDown(self) -> None:
        for connection in self._made:
            with suppress(self.driver.Error):
                connection.close()
        super().tearDown()

    def test_nextset(self) -> None:
        """See, where there can be two results, that both are there; the suite leaves this out."""
        cursor = self._connect().cursor()
        if not hasattr(cursor, "nextset"):
            return
        one, two = (self.database.select(n) for n in (1, 2))
        if not self.subject.has("result sets"):
            cursor.execute(one)
            with suppress(self.driver.NotSupportedError):
                assert not cursor.nextset()
            return
        cursor.execute(f"{one}; {two}")
        assert cursor.fetchone()[0] == 1
        assert cursor.nextset()
        assert cursor.fetchone()[0] == 2
        assert not cursor.nextset()


TESTS = sorted({*unittest.TestLoader().getTestCaseNames(_Compliance)} - _PLACEHOLDERS)
"""The names of its tests."""


@dataclass(frozen=True)
class Failure:
    """What a test has failed with: the name of an exception, and the report."""

    error: str
    report: str


@dataclass(frozen=True)
class Verdict:
    """How a test has ended; None stands for success.

    Attributes:
        raw: With the driver's own module.
        pooled: With what looks like it, and whose connections come from pools.
    """

    raw: Failure | None
    pooled: Failure | None


def judged(test: str, subject: Subject, database: Database) -> Verdict:
    """Run a test with a driver, and once more through pools."""
    if database.server == "mariadb":
        database.change(_LOWER)
    arguments = {**database.arguments, **subject.several}
    settled = {"subject": subject, "database": database, "connect_kw_args": arguments}
    case = type("Case", (_Compliance,), settled)
    with facade(database.module) as module:
        return Verdict(_outcome(case, test, database.module), _outcome(case, test, module))


def _outcome(case: type[_Compliance], test: str, module: Any) -> Failure | None:
    case.driver = module
    result = _Result()
    case(test).run(result)
    assert (result.testsRun, result.skipped) == (1, [])
    return result.failure


class _Result(unittest.TestResult):
    failure: Failure | None = None

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's name
        super().addError(test, err)
        self.failure = Failure(err[0].__name__, self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.failure = Failure(err[0].__name__, self.failures[-1][1])
