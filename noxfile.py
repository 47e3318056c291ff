"""Every check of this project: `python3 noxfile.py` runs them all, even on a machine just set up.

`python3 noxfile.py demo` runs one session, `python3 noxfile.py tests -- -k pool` passes arguments
on, and `python3 noxfile.py --list` tells what there is. Who has nox may also say `nox -s tests`.
Where nox is missing, it is put into a virtual environment of its own, `.nox/.bootstrap`.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)


# ------------------------------------------------------------------------------------------------
# Started as a script: find or install nox, and become it


def become_nox(arguments: list[str]) -> None:
    """Run nox on this file; leading words in `arguments` name sessions, the rest is nox's own."""
    if sys.version_info < OLDEST:
        sys.exit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version}")
    first_option = next((i for i, word in enumerate(arguments) if word[0] == "-"), len(arguments))
    sessions, options = arguments[:first_option], arguments[first_option:]
    if sessions:
        options = ["--session", *sessions, *options]
    python = python_with_nox()
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execv(python, [python, "-m", "nox", "--noxfile", __file__, *options])  # noqa: S606


def python_with_nox() -> str:
    if importlib.util.find_spec("nox"):
        return sys.executable
    home = ROOT / ".nox" / ".bootstrap"
    python = home / "bin" / "python"
    if not has_nox(python):
        print(f"Installing nox into {home.relative_to(ROOT)}", flush=True)
        ensure_venv()
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "nox>=2025.2"], check=True)
    return str(python)


def has_nox(python: Path) -> bool:
    return python.exists() and runs([python, "-c", "import nox"])


def runs(command: list[str | Path]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def ensure_venv() -> None:
    """Debian packs venv's pip apart from Python: install it, or say what to install."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not shutil.which("apt-get") or os.geteuid() != 0:
        sys.exit(
            f"This Python cannot make virtual environments. Install {package}, then try again."
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        subprocess.run(["apt-get", "-q", *command], env=environment, check=True)


if __name__ == "__main__":
    become_nox(sys.argv[1:])


# ------------------------------------------------------------------------------------------------
# Read by nox

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
LOOPS = {"3.11": ["asyncio", "uvloop"], "3.12": ["uvloop"], "3.13": ["asyncio"]}
FULL_LENGTH = {
    "ASYNCDBPOOL_SEEDS": "0-9999",
    "ASYNCDBPOOL_MATRIX": "whole",
    "ASYNCDBPOOL_STORM": "5",
}
PROCESSES = "3"  # for the test suite, which waits more than it computes; each has its own servers
MUTANTS = "2"  # judged at once; each is a process
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

nox.needs_version = ">=2025.2"
nox.options.sessions = [
    "lint",
    "types",
    "tests",
    "coverage",
    "examples",
    "docs",
    "demo",
    "bench-short",
]
nox.options.reuse_venv = "yes"
# nox says which ones it skips. Nobody, CI included, is asked to install three Pythons.
nox.options.error_on_missing_interpreters = False


def prefer_pyenv() -> None:
    """Put pyenv's interpreters ahead of its shims, which stand there for switched-off ones too."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in PYTHONS:
        homes = [
            path for path in versions.glob(f"{python}.*") if (path / "bin" / "python").exists()
        ]
        if homes:
            newest = max(homes, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
            os.environ["PATH"] = f"{newest / 'bin'}{os.pathsep}{os.environ['PATH']}"


prefer_pyenv()

# Coverage is measured once, on the oldest Python there is.
MEASURED = next((v for v in PYTHONS if runs(["/usr/bin/env", f"python{v}", "-c", ""])), PYTHONS[0])


def install(session: nox.Session, *groups: str) -> None:
    """Install the package as its users get it, with some of the dependency groups."""
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    session.install(".", *nox.project.dependency_groups(pyproject, *groups))


def install_servers(session: nox.Session) -> None:
    """See to the database servers and to what compiling mysqlclient needs, once per Python."""
    session.run(
        "python",
        "tests/support/servers.py",
        "install",
        success_codes=[0] if IN_CI else [0, 1],  # elsewhere those tests are skipped, loudly
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the mistakes that can be seen from outside."""
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    session.install(*nox.project.dependency_groups(pyproject, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """The types, in the eyes of mypy and of pyright."""
    install_servers(session)
    install(session, "tests", "examples", "demo", "bench", "types")
    session.run("mypy", *session.posargs)
    session.run("pyright", "--warnings")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite, on each event loop in turn; arguments go to pytest.

    Each Python has one loop, and the oldest both. The long proofs have their turn on the oldest
    (and on the newest every night).
    """
    install_servers(session)
    install(session, "tests")
    measured = session.python == MEASURED and not session.posargs
    if measured:
        session.run("coverage", "erase")
        session.notify("coverage")
    runner = ["coverage", "run", "-m", "pytest"] if measured else ["python", "-m", "pytest"]
    # The rooms with their own sessions are left out.
    whole = ["--numprocesses", PROCESSES, "--ignore=tests/examples", "--ignore=tests/docs"]
    if session.python != PYTHONS[0]:
        whole += ["-m", "not proof and not sweep"]
    chosen = session.posargs or whole
    for loop in LOOPS[str(session.python)]:
        session.run(*runner, *chosen, env={"ASYNCDBPOOL_LOOP": loop})


@nox.session
def coverage(session: nox.Session) -> None:
    """What the tests reached on both loops together: all of it, or this fails."""
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    session.install(*nox.project.dependency_groups(pyproject, "coverage"))
    session.run("coverage", "combine", "--keep")
    session.run("coverage", "report", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """The examples do what they say."""
    install_servers(session)
    install(session, "tests", "examples", "demo")
    session.run("python", "-m", "pytest", "tests/examples", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation agrees with the code."""
    install_servers(session)
    install(session, "tests", "examples", "demo")
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """A pool at work, to look at; arguments go to examples/demo.py."""
    install(session, "demo")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmark, about ten minutes of an idle machine; `-- --docs` publishes it, too."""
    measure(session, *session.posargs)


@nox.session(name="bench-short")
def bench_short(session: nox.Session) -> None:
    """Bare drivers and this pool side by side; fails only where a ratio has collapsed."""
    measure(session, "--short")


def measure(session: nox.Session, *options: str) -> None:
    install_servers(session)
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *options, env={"PYTHONPATH": "tests"})


@nox.session(python=PYTHONS[-1])
def nightly(session: nox.Session) -> None:
    """The proofs at full length: ten thousand simulations, the whole matrix, longer storms."""
    install_servers(session)
    install(session, "tests")
    proofs = ["--numprocesses", PROCESSES, "-m", "proof or sweep", *session.posargs]
    session.run("python", "-m", "pytest", *proofs, env=FULL_LENGTH)


@nox.session
def simulation(session: nox.Session) -> None:
    """The seeds that `ASYNCDBPOOL_SEEDS` names, 500 unless told otherwise."""
    install(session, "tests")
    session.run("python", "-m", "pytest", "tests/test_simulation.py", *session.posargs)


# mutmut's notes of which test reaches what set a context variable in every call, which the garbage
# collector of Python 3.11 may break (python/cpython#148891).
@nox.session(python=PYTHONS[-1])
def mutation(session: nox.Session) -> None:
    """How many changes of the core the tests notice: nine in ten, or this fails; takes hours.

    What is known of a function is kept in `mutants/` until the function changes; what survived is
    judged again each time. Arguments go to `mutmut run`: "asyncdbpool._stock*", say.
    """
    install(session, "tests", "mutation")
    session.run("python", "tests/support/mutants.py", "forget")
    # A relative path, so that programs which the tests start find the mutated source, too; and a
    # few of the simulation's seeds, since every mutant that lives meets them all.
    environment = {"PYTHONPATH": "src", "ASYNCDBPOOL_SEEDS": "0-24"}
    session.run("mutmut", "run", "--max-children", MUTANTS, *session.posargs, env=environment)
    session.run("python", "tests/support/mutants.py", "report")
