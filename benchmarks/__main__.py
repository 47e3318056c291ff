"""Runs the benchmark: `python -m benchmarks`, or `python -m benchmarks --help` for the options.

Private servers run on one core, and a client process for each row and event loop on another.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import on_sqlite
from benchmarks.client import Order
from benchmarks.judging import LOOPS
from benchmarks.page import RESULTS, Results, outcome, publish
from benchmarks.rows import ROWS
from support.servers import MariaDBServer, PostgresServer, Server

LIBRARIES = [
    "psycopg2-binary",
    "mysqlclient",
    "asyncpg",
    "aiomysql",
    "psycopg",
    "psycopg-pool",
    "SQLAlchemy",
    "aiosqlite",
    "aiosqlitepool",
    "aioodbc",
    "DBUtils",
    "uvloop",
]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--loop", choices=[*LOOPS, "both"], default="both")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (7; short: 3)")
    parser.add_argument("--seconds", type=float, help="of a turn, about (0.5; short: 0.25)")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=ROWS, help=", ".join(ROWS))
    parser.add_argument(
        "--short",
        action="store_true",
        help="only what has a floor, beside its floor; fails where a ratio has collapsed",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="write docs/benchmarks.md; rows that are not measured stay as they are there",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="--docs, without measuring anything at all"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, tell, and write what the options ask for."""
    options = arguments()
    loops = LOOPS if options.loop == "both" else (options.loop,)
    rows = options.only or [key for key in ROWS if ROWS[key].short or not options.short]
    if options.redraw:
        options.docs, rows = True, []
    results = Results.read(RESULTS) if options.docs and RESULTS.exists() else Results()
    if rows:
        with arena() as (results.machine, common):
            print("\n".join(f"{n}: {what}" for n, what in results.machine.items()), flush=True)
            for key in rows:
                for loop in loops:
                    run(key, loop, options, common, results)
                    print(f"\n{outcome(key, loop, results)}", flush=True)
    if options.json:
        results.write(options.json)
    if options.docs:
        publish(results)
    if options.short and (collapsed := results.collapsed()):
        sys.exit("\n".join(["", "Far too slow:", *collapsed]))


def run(
    key: str, loop: str, options: argparse.Namespace, common: dict[str, Any], results: Results
) -> None:
    """Have a client measure a row, and add what it found to the results."""
    row = ROWS[key]
    floors = {
        name for claim in row.claims if claim.floor for name in (claim.subject, claim.against)
    }
    order = Order(
        row=key,
        loop=loop,
        contestants=[name for name in row.contestants if name in floors or not options.short],
        rounds=options.rounds or (3 if options.short else 7),
        seconds=options.seconds or (0.25 if options.short else 0.5),
        **common,
    )
    client = subprocess.run(
        [sys.executable, "-m", "benchmarks.client"],
        input=order.as_json(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if client.returncode:
        sys.exit(f"{row.title} [{loop}]: the client failed")
    answer = json.loads(client.stdout)
    results.costs.setdefault(key, {})[loop] = answer["costs"]
    results.missing.pop(key, None)
    if answer["missing"]:
        results.missing[key] = answer["missing"]


# ------------------------------------------------------------------------------------------------
# The machine


@contextmanager
def arena() -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Start the servers on a core of their own; describe the machine, and what clients need."""
    load = os.getloadavg()[0]
    servers_core, client_core, pinning = cores()
    if servers_core is not None:
        os.sched_setaffinity(0, {servers_core})  # what is started from here on inherits it
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        mariadb = stack.enter_context(MariaDBServer())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        sqlite = Path(folder, "items.db")
        on_sqlite.fill(sqlite)
        common = {
            "core": client_core,
            "postgres": login(postgres),
            "mariadb": login(mariadb),
            "sqlite": str(sqlite),
        }
        yield machine(pinning, load, [postgres, mariadb]), common


def cores() -> tuple[int | None, int | None, str]:
    """Choose the servers' core and the client's, and say what was chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None, "this system pins no processes: client and servers share its cores"
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) == 1:
        return mine[0], mine[0], f"there is but one core ({mine[0]}): client and servers share it"
    first, last = mine[0], mine[-1]
    return (
        first,
        last,
        f"the servers to core {first}, each client process to core {last} (`sched_setaffinity`)",
    )


def login(server: Server) -> dict[str, Any]:
    """Connect keywords."""
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": server.database,
    }


def machine(pinning: str, load: float, servers: Sequence[Server]) -> dict[str, str]:
    """Tell what is measured where."""
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "pinned": pinning,
        "load before": f"{load:.1f} (average of a minute; an idle machine has none)",
        "speed": f"a million additions in a loop take {1000 * a_million_additions():.0f} ms",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "servers": ", ".join(f"{server.title} {server.version}" for server in servers),
        "libraries": ", ".join(f"{name} {installed(name)}" for name in LIBRARIES),
    }


def a_million_additions() -> float:
    """Time something that says, in seconds, how fast this machine is today."""
    start, total = perf_counter(), 0
    for number in range(1_000_000):
        total += number
    return perf_counter() - start


def processor() -> str:
    """Read the processor's name where Linux tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf-8").splitlines() if known.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")


def installed(name: str) -> str:
    """The version of a library, if it is here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    main()
