"""Running the examples: as scripts, as their readers do, or as modules to look into."""

import importlib.util
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATIENCE = 60.0  # seconds for a script, far more than it needs


def command(name: str, *arguments: str) -> list[str]:
    """How to run an example so that a warning of its own making fails it."""
    return [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]


def run_script(
    name: str, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an example with its output in a pipe."""
    return subprocess.run(  # noqa: S603 - an example of ours
        command(name, *arguments),
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_in_terminal(
    name: str, *arguments: str, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run an example in a terminal of 100 columns; the exit code and what it drew."""
    import pty

    terminal, theirs = pty.openpty()
    screen = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(  # noqa: S603 - an example of ours
        command(name, *arguments),
        env=os.environ | screen | (env or {}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            drawn = read_all(terminal, time.monotonic() + PATIENCE)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(terminal)
    return process.returncode, drawn.decode()


def read_all(terminal: int, deadline: float) -> bytes:
    """Read until the other side of a terminal is closed."""
    chunks: list[bytes] = []
    while select.select([terminal], [], [], deadline - time.monotonic())[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux says that it is closed
            chunk = b""
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise TimeoutError(f"still running: {b''.join(chunks)[-2000:]!r}")


def load(name: str) -> ModuleType:
    """Import an example afresh, as a module that nobody else has."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Annotations and dataclasses are looked up where their module is registered.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
