"""The classic compliance suite for PEP 249, `dbapi20`, which comes as a package.

What it leaves to each driver is filled in; else it runs as it is.
"""

import unittest
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import dbapi20

from support.databases import Database
from support.facade import facade
from support.subjects import Subject

__all__ = ["TESTS", "Verdict", "judged"]

_PLACEHOLDERS = {"test_setoutputsize"}  # it only asks for another; ..._basic is the suite's own

_LOWERED = {
    "mariadb": "CREATE OR REPLACE PROCEDURE lowered(IN word VARCHAR(20)) SELECT LOWER(word)",
    "firebird": (
        "CREATE OR ALTER PROCEDURE lowered(word VARCHAR(20)) RETURNS (low VARCHAR(20)) AS"
        " BEGIN low = LOWER(word); SUSPEND; END"
    ),
}
"""Makes what `callproc()` calls, where that cannot be the function `lower`."""


class _Compliance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc] # no types
    """The suite, for one driver and database; it closes what its tests leave open."""

    driver: Any
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

    def executeDDL1(self, cursor: Any) -> None:  # noqa: N802 - the suite's name
        super().executeDDL1(cursor)
        self._commit_table(cursor)

    def executeDDL2(self, cursor: Any) -> None:  # noqa: N802 - as above
        super().executeDDL2(cursor)
        self._commit_table(cursor)

    def _commit_table(self, cursor: Any) -> None:
        if self.database.server == "firebird":  # which cannot use it before
            cursor.connection.commit()

    def test_nextset(self) -> None:
        """See, where there can be two results, that both are there; the suite leaves this out."""
        with closing(self._connect()) as connection:
            cursor = connection.cursor()
            one, two = (self.database.select(n) for n in (1, 2))
            if self.subject.has("result sets"):
                cursor.execute(f"{one}; {two}")
                assert cursor.fetchone()[0] == 1
                assert cursor.nextset()
                assert cursor.fetchone()[0] == 2
                assert not cursor.nextset()
            elif hasattr(cursor, "nextset"):
                cursor.execute(one)
                with suppress(self.driver.NotSupportedError):
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


def judged(test: str, subject: Subject, place: Any) -> Verdict:
    """Run a test with a driver, and once more through pools."""
    kin, database = subject.like.describe(place), subject.database(place)
    # The keywords may be for the pool's driver, which translates them; the first way is not.
    ways = {**subject.ways(kin.arguments), "by keywords": ((), database.arguments)}
    args, kwargs = next(iter(ways.values()))
    settled = {
        "subject": subject,
        "database": database,
        "connect_args": args,
        "connect_kw_args": {**kwargs, **subject.several},
    }
    if subject.like.place in _LOWERED:
        kin.change(_LOWERED[subject.like.place])
        settled["lower_func"] = "lowered"
    case = type("Case", (_Compliance,), settled)
    with warnings.catch_warnings(), facade(subject.module) as module:
        warnings.simplefilter("ignore", UserWarning)  # PEP 249 wants one for `connection.Error`
        return Verdict(_outcome(case, test, subject.module), _outcome(case, test, module))


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
