"""Charts: horizontal bars as small SVG files, the same bytes for the same figures.

Each chart paints its own background, and a dark one where the reader's system is dark.
"""

from collections.abc import Mapping
from html import escape

from benchmarks.judging import LOOPS, OURS, Spread, Unit, rounded

WIDTH, LEFT, RIGHT, TOP = 900, 310, 92, 76
BAR, GAP = 15, 12

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
  .title { font-size: 16px; font-weight: 600 } .ours { font-weight: 600 }
  .figure { font-size: 12px } .back { fill: #ffffff; stroke: #d0d7de }
  .asyncio { fill: #8c959f } .uvloop { fill: #c4cad1 }
  .ours.asyncio { fill: #0969da } .ours.uvloop { fill: #80b3f2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .back { fill: #0d1117; stroke: #30363d }
    .asyncio { fill: #7d8590 } .uvloop { fill: #4a525c }
    .ours.asyncio { fill: #4493f8 } .ours.uvloop { fill: #1f5bb0 }
  }"""


def chart(title: str, unit: Unit, results: Mapping[str, Mapping[str, Spread]]) -> str:
    """Draw the medians of the contestants, on one event loop or on both.

    Args:
        title: A sentence that says what is seen.
        unit: What the figures are shown in.
        results: By loop, then by contestant.
    """
    loops = [loop for loop in LOOPS if loop in results]
    names = [name for name in results[loops[0]] if all(name in results[loop] for loop in loops)]
    figures = {
        (name, loop): unit.figure(results[loop][name].median) for name in names for loop in loops
    }
    room = (WIDTH - LEFT - RIGHT) / max(figures.values())
    height = TOP + len(names) * (len(loops) * BAR + GAP) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}\n</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="18" y="30">{escape(title)}</text>',
        *_legend(loops),
    ]
    top = TOP
    for name in names:
        ours = " ours" if name.startswith(OURS) else ""
        middle = top + len(loops) * BAR / 2 + 4.5
        parts.append(
            f'<text class="name{ours}" x="{LEFT - 10}" y="{middle:.1f}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        for loop in loops:
            figure = figures[name, loop]
            long = max(1.0, figure * room)
            parts.append(
                f'<rect class="{loop}{ours}" x="{LEFT}" y="{top}" width="{long:.1f}" '
                f'height="{BAR - 2}"/>'
            )
            parts.append(
                f'<text class="figure{ours}" x="{LEFT + long + 6:.1f}" y="{top + 11}">'
                f"{rounded(figure)}</text>"
            )
            top += BAR
        top += GAP
    return "\n".join([*parts, "</svg>\n"])


def _legend(loops: list[str]) -> list[str]:
    """Tell the two loops' bars apart; ours are the coloured ones."""
    titles = {"asyncio": "asyncio's own event loop", "uvloop": "uvloop"}
    left, parts = LEFT, []
    for loop in loops:
        parts.append(f'<rect class="{loop}" x="{left}" y="45" width="12" height="12"/>')
        parts.append(f'<rect class="{loop} ours" x="{left + 13}" y="45" width="12" height="12"/>')
        parts.append(f'<text class="figure" x="{left + 31}" y="55">{titles[loop]}</text>')
        left += 210
    return parts
