"""The documentation as the tests see it: its pages, their blocks of code, tables and links."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the mark before it that tells whether it is run."""

    page: Path
    line: int
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def compiled(self) -> CodeType:
        """Compile Python with `await` at its top level; tracebacks show the page's own lines."""
        source = "\n" * self.line + self.code
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(source, str(self.page), "exec", flags=flags)
        return code

    async def run(self, namespace: dict[str, Any]) -> None:
        """Run Python as if its lines stood in a coroutine."""
        waiting = eval(self.compiled(), namespace)  # noqa: S307 - the project's own pages
        if waiting is not None:
            await waiting


def blocks(page: Path, language: str = "python", mark: str | None = None) -> list[Block]:
    """The blocks of a page, all of a language's or those with a certain mark."""
    return [
        block
        for block in _all_blocks(page)
        if block.language == language and mark in (None, block.mark)
    ]


def _all_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = re.fullmatch(r"<!-- (.+) -->", lines[start - 1])
        yield Block(
            page=page,
            line=start + 1,
            language=lines[start].removeprefix("```"),
            mark=before.group(1) if before else "",
            code="\n".join(lines[start + 1 : number]),
        )
        start = None
    assert start is None, f"{page.name}: a block that starts in line {start} never ends"


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def rows(page: Path, title: str) -> list[list[str]]:
    """The rows of the first table whose head begins with a cell `title`."""
    lines = page.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} |"))
    found: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
