"""A pool at work: hundreds of tasks share a few SQLite connections, and the event loop stays free.

A little bank in a temporary database file. Each task is a customer who looks at a balance, reads a
statement of account or pays somebody, over and over; now and then one asks for a slow report.
A heartbeat measures meanwhile for how long the event loop was kept from doing anything else.

    python demo.py
    python demo.py --seconds 20 --tasks 1000 --connections 8
"""

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from asyncdbpool import ConnectionPool, PoolStats

if TYPE_CHECKING:
    from rich.console import Console

Figures = dict[str, str]
Update = Callable[[float, "Tally", PoolStats], None]
Number = TypeVar("Number", int, float)

ACCOUNTS = 1_000
OPENING_BALANCE = 1_000
HEARTBEAT = 0.005  # seconds

SCHEMA = """
    PRAGMA journal_mode = WAL;  -- readers and the writer do not wait for each other
    CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
    CREATE TABLE payment (
        id INTEGER PRIMARY KEY, payer INTEGER NOT NULL, payee INTEGER NOT NULL, amount INTEGER
    );
    CREATE INDEX payment_by_payer ON payment (payer);
"""
BALANCE = "SELECT balance FROM account WHERE id = ?"
STATEMENT = "SELECT payee, amount FROM payment WHERE payer = ? ORDER BY id DESC"
CHANGE = "UPDATE account SET balance = balance + ? WHERE id = ?"
BOOKING = "INSERT INTO payment (payer, payee, amount) VALUES (?, ?, ?)"
REPORT = "SELECT count(*) FROM account AS rich JOIN account AS poor ON rich.balance > poor.balance"

dice = random.Random()  # noqa: S311 - no secrets come out of here


@dataclass
class Tally:
    """What has happened so far."""

    queries: int = 0
    payments: int = 0
    jobs: int = 0
    waits: int = 0  # jobs that found every connection taken
    longest_queue: int = 0
    slowest_query: float = 0.0
    beats: int = 0
    worst_stall: float = 0.0


class Bank:
    """What customers do: the ways of using a pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.tally = Tally()

    async def found(self) -> None:
        async with self.pool.connection() as conn:
            await conn.executescript(SCHEMA)  # sqlite3's own method, on the connection's thread
        balances = [(OPENING_BALANCE,)] * ACCOUNTS
        await self.pool.execute_many("INSERT INTO account (balance) VALUES (?)", balances)

    async def serve_customer(self, end: float) -> None:
        jobs = (self.look_at_balance, self.read_statement, self.pay, self.ask_for_report)
        while perf_counter() < end:
            (job,) = dice.choices(jobs, weights=(600, 300, 99, 1))
            self.tally.jobs += 1
            self.tally.waits += self.pool.free == 0
            await job()

    async def look_at_balance(self) -> None:
        """A one-shot: borrow, query, fetch and return in a single trip to a worker thread."""
        await self.pool.fetch_val(BALANCE, (somebody(),))
        self.tally.queries += 1

    async def read_statement(self) -> int:
        """A lease: the connection is ours inside of the block, and its rows come in batches."""
        total = 0
        async with self.pool.connection() as conn:
            async for _payee, amount in await conn.execute(STATEMENT, (somebody(),)):
                total += amount
        self.tally.queries += 1
        return total

    async def pay(self) -> None:
        """A transaction: all of it, or nothing."""
        payer, payee, amount = somebody(), somebody(), dice.randint(1, 50)
        async with self.pool.transaction() as conn:
            await conn.execute(CHANGE, (-amount, payer))
            await conn.execute(CHANGE, (amount, payee))
            await conn.execute(BOOKING, (payer, payee, amount))
        self.tally.queries += 3
        self.tally.payments += 1

    async def ask_for_report(self) -> None:
        """A slow query keeps its thread busy, not the loop."""
        async with self.pool.connection() as conn:
            began = perf_counter()
            await conn.fetch_val(REPORT)
            self.tally.slowest_query = max(self.tally.slowest_query, perf_counter() - began)
        self.tally.queries += 1

    async def audit(self) -> None:
        """Payments may neither have lost money nor made any."""
        money = await self.pool.fetch_val("SELECT sum(balance) FROM account")
        booked = await self.pool.fetch_val("SELECT count(*) FROM payment")
        if money != ACCOUNTS * OPENING_BALANCE or booked != self.tally.payments:
            sys.exit(f"The books are wrong: {money} in the accounts, {booked} payments booked")


def somebody() -> int:
    return dice.randint(1, ACCOUNTS)


async def feel_pulse(tally: Tally, end: float) -> None:
    """Sleep a moment again and again; what it takes longer is a stall of the event loop."""
    while (began := perf_counter()) < end:
        await asyncio.sleep(HEARTBEAT)
        tally.beats += 1
        tally.worst_stall = max(tally.worst_stall, perf_counter() - began - HEARTBEAT)


# ------------------------------------------------------------------------------------------------
# The show


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    seconds: float
    tasks: int
    connections: int


async def run(plan: Plan, database: Path, update: Update) -> Figures:
    """Open the bank, let everybody in, and return the figures of the day."""
    async with ConnectionPool(
        sqlite3,
        database,
        max_size=plan.connections,
        timeout=None,  # customers are patient, however many there are
        isolation_level="IMMEDIATE",  # a transaction takes SQLite's write lock when it begins
        connect_kwargs={"timeout": 60.0},  # sqlite3's own: seconds to wait for that lock
    ) as pool:
        bank = Bank(pool)
        await bank.found()
        began = perf_counter()
        end = began + plan.seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.tasks):
                group.create_task(bank.serve_customer(end))
            group.create_task(feel_pulse(bank.tally, end))
            group.create_task(watch(bank, update, plan.seconds))
        elapsed = perf_counter() - began
        await bank.audit()
        return figures(plan, bank.tally, pool.stats(), elapsed)


async def watch(bank: Bank, update: Update, seconds: float) -> None:
    """Tell the screen, ten times a second, how it goes."""
    began = perf_counter()
    while (elapsed := perf_counter() - began) < seconds:
        stats = bank.pool.stats()
        bank.tally.longest_queue = max(bank.tally.longest_queue, stats.waiting)
        update(elapsed, bank.tally, stats)
        await asyncio.sleep(0.1)
    update(seconds, bank.tally, bank.pool.stats())


def figures(plan: Plan, tally: Tally, stats: PoolStats, elapsed: float) -> Figures:
    return {
        "Tasks": f"{plan.tasks:,}",
        "Connections opened": f"{stats.created} of at most {stats.max_size}",
        "Queries": f"{tally.queries:,} in {elapsed:.1f} s",
        "Rate": f"{tally.queries / elapsed:,.0f} queries/s",
        "Waits for a connection": f"{tally.waits:,} of {tally.jobs:,} jobs",
        "Mean wait": milliseconds(stats.wait_seconds / stats.acquired),
        "Longest queue": f"{tally.longest_queue:,} tasks",
        "Payments": f"{tally.payments:,}, not a penny lost",
        "Slowest query": milliseconds(tally.slowest_query),
        "Heartbeats of the loop": f"{tally.beats:,}",
        "Worst stall of the loop": milliseconds(tally.worst_stall),
    }


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


@contextmanager
def lines(plan: Plan) -> Iterator[Update]:
    """Show the progress in ten lines: for logs, and where rich is missing."""
    shown = 0

    def update(elapsed: float, tally: Tally, stats: PoolStats) -> None:
        nonlocal shown
        tenths = int(10 * elapsed / plan.seconds)
        if tenths > shown:
            shown = tenths
            print(
                f"{elapsed:6.1f} s {tally.queries:10,} queries,"
                f" {stats.in_use} connections in use, {stats.waiting:,} tasks waiting",
                flush=True,
            )

    yield update


@contextmanager
def bars(plan: Plan, console: "Console") -> Iterator[Update]:
    """Show the progress in bars that move."""
    from rich.progress import BarColumn, Progress

    columns = ("{task.description}", BarColumn(), "{task.fields[text]}")
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        time = progress.add_task("Time", total=plan.seconds, text="")
        in_use = progress.add_task("Connections in use", total=plan.connections, text="")
        waiting = progress.add_task("Tasks waiting", total=plan.tasks, text="")
        stall = progress.add_task("Loop stalled", total=0.1, text="")  # seconds that one notices

        def update(elapsed: float, tally: Tally, stats: PoolStats) -> None:
            progress.update(time, completed=elapsed, text=f"{tally.queries:,} queries")
            progress.update(in_use, completed=stats.in_use, text=f"{stats.in_use}")
            progress.update(waiting, completed=stats.waiting, text=f"{stats.waiting:,}")
            progress.update(
                stall,
                completed=tally.worst_stall,
                text=f"{milliseconds(tally.worst_stall)} at worst",
            )
            progress.refresh()

        yield update


def find_console() -> "Console | None":
    """A terminal that rich can draw on, if there is one."""
    if sys.stdout.isatty():
        with suppress(ImportError):
            from rich.console import Console

            return Console()
    return None


def show(table: Figures, console: "Console | None") -> None:
    if console is None:
        print()
        width = max(map(len, table))
        for label, value in table.items():
            print(f"{label:{width}}  {value}")
        return

    from rich.table import Table

    rich_table = Table(show_header=False, title="The figures")
    for label, value in table.items():
        rich_table.add_row(label, value)
    console.print(rich_table)


# ------------------------------------------------------------------------------------------------
# The command line


def within(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """A parser for the numbers that make sense."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            number = kind(text)
            if least <= number <= most:
                return number
        words = {int: "a whole number", float: "a number"}[kind]
        raise argparse.ArgumentTypeError(f"{words} from {least} to {most} is needed, not {text!r}")

    return parse


def read_command_line() -> Plan:
    parser = argparse.ArgumentParser(
        description="Many tasks share a few SQLite connections; the event loop never stalls.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=within(float, 0.1, 3600.0), default=10.0, help="how long to run"
    )
    parser.add_argument(
        "--tasks", type=within(int, 1, 10_000), default=300, help="customers at a time"
    )
    parser.add_argument(
        "--connections", type=within(int, 1, 100), default=5, help="connections they share"
    )
    return Plan(**vars(parser.parse_args()))


def main() -> None:
    plan = read_command_line()
    console = find_console()
    print(f"{plan.tasks:,} tasks share {plan.connections} SQLite connections", flush=True)
    progress = bars(plan, console) if console else lines(plan)
    with tempfile.TemporaryDirectory() as folder, progress as update:
        table = asyncio.run(run(plan, Path(folder, "bank.db"), update))
    show(table, console)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
