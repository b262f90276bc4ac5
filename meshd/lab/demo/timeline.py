"""timeline.svg: answers per second by cluster, phases marked, lost requests in red; readable on light and on dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from meshd.lab.demo.report import Happened
from meshd.lab.demo.requests import Request, losses

WIDTH, HEIGHT = 960, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 64, 40
# Half a second is the shortest interval in which four clients' rates look steady.
STEP_S = 0.5
# Width of an average character of the text, generously.
CHARACTER = 6.8
# Okabe-Ito: told apart by colour-blind readers too, and legible on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
STYLE = """
  .ink { fill: #24292f } .faint { stroke: #8c959f; stroke-opacity: .45 } .lost { fill: #d1242f }
  text { font: 12px system-ui, sans-serif }
  @media (prefers-color-scheme: dark) { .ink { fill: #e6edf3 } .lost { fill: #ff6b6b } }
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """From seconds since the beginning and answers per second to the picture's coordinates."""

    seconds: float
    highest: float

    def x(self, second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / self.seconds

    def y(self, rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / self.highest


def draw(happened: Sequence[Happened], requests: Sequence[Request], clusters: Sequence[str]) -> str:
    """The picture as SVG text; requests count when they ended, as the clients saw it."""
    begun_ns = happened[0].begun_ns
    # Not the phases' end: the clients have stopped a moment before it.
    seconds = (max(request.ended_ns for request in requests) - begun_ns) / 1e9
    counts = per_step(requests, begun_ns, seconds)
    totals = [sum(step.values()) / STEP_S for step in counts]
    scale = Scale(seconds, _round_up(max([1.0, *totals])))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Answers per second by cluster during the demo">',
        f"<style>{STYLE}</style>",
        *_grid(scale),
        *_areas(scale, counts, clusters),
        *_losses(scale, [(request.ended_ns - begun_ns) / 1e9 for request in losses(requests)]),
        *_phases(scale, happened, begun_ns),
        *_legend(clusters),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def per_step(requests: Sequence[Request], begun_ns: int, seconds: float) -> list[Counter[str]]:
    """For each step of STEP_S: answers by cluster, and under "" the requests that were lost."""
    steps: list[Counter[str]] = [Counter() for _ in range(int(seconds / STEP_S) + 1)]
    for request in requests:
        step = int((request.ended_ns - begun_ns) / 1e9 / STEP_S)
        if 0 <= step < len(steps):
            steps[step][request.cluster] += 1
    # The last step is not whole: its rate would look like a drop.
    return steps[:-1]


def _round_up(rate: float) -> float:
    return -(-rate // 50) * 50


def _grid(scale: Scale) -> list[str]:
    parts = []
    for rate in range(0, int(scale.highest) + 1, max(50, int(scale.highest) // 250 * 50)):
        y = scale.y(rate)
        parts.append(f'<line class="faint" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="ink" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{rate}</text>')
    for second in range(0, int(scale.seconds) + 1, 10):
        x = scale.x(second)
        parts.append(
            f'<text class="ink" x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{second} s</text>'
        )
    return parts


def _areas(scale: Scale, counts: Sequence[Counter[str]], clusters: Sequence[str]) -> list[str]:
    """One area for each cluster, on top of the others before it: the upper edge is all answers."""
    below = [0.0] * len(counts)
    parts = []
    for number, cluster in enumerate(clusters):
        above = [low + step[cluster] / STEP_S for low, step in zip(below, counts, strict=True)]
        upper = [f"{scale.x((i + 0.5) * STEP_S):.1f},{scale.y(v):.1f}" for i, v in enumerate(above)]
        lower = [f"{scale.x((i + 0.5) * STEP_S):.1f},{scale.y(v):.1f}" for i, v in enumerate(below)]
        colour = COLOURS[number % len(COLOURS)]
        parts.append(
            f'<polygon fill="{colour}" fill-opacity=".75" points="{" ".join([*upper, *reversed(lower)])}">'
            f"<title>answers of {escape(cluster)}</title></polygon>"
        )
        below = above
    return parts


def _losses(scale: Scale, seconds: Sequence[float]) -> list[str]:
    """One bar for each step with losses, from the first of them to the last: a whole step may begin before its phase did."""
    by_step: dict[int, list[float]] = {}
    for second in sorted(seconds):
        by_step.setdefault(int(second / STEP_S), []).append(second)
    parts = []
    for its in by_step.values():
        x, top = scale.x(its[0]), scale.y(len(its) / STEP_S)
        width = max(2.0, scale.x(its[-1]) - x)
        parts.append(
            f'<rect class="lost" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{scale.y(0) - top:.1f}"><title>{len(its)} lost</title></rect>'
        )
    return parts


def _phases(scale: Scale, happened: Sequence[Happened], begun_ns: int) -> list[str]:
    parts = []
    for number, each in enumerate(happened, 1):
        x = scale.x((each.begun_ns - begun_ns) / 1e9)
        # Neighbouring names stand on two lines: some phases are shorter than their name.
        y = 34 if number % 2 else 50
        parts.append(
            f'<line class="faint" stroke-dasharray="3 3" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{scale.y(0):.1f}"/>'
        )
        name = escape(f"{number} {each.phase.name}")
        if x + CHARACTER * len(name) < WIDTH - RIGHT:
            parts.append(f'<text class="ink" x="{x + 3:.1f}" y="{y}">{name}</text>')
        else:
            parts.append(f'<text class="ink" x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{name}</text>')
    return parts


def _legend(clusters: Sequence[str]) -> list[str]:
    parts = [f'<text class="ink" x="{LEFT}" y="16">answers per second</text>']
    names = [
        *((c, f'fill="{COLOURS[i % len(COLOURS)]}"') for i, c in enumerate(clusters)),
        ("lost", 'class="lost"'),
    ]
    for number, (name, fill) in enumerate(names):
        x = LEFT + 150 + 90 * number
        parts.append(f'<rect {fill} x="{x}" y="7" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="ink" x="{x + 15}" y="16">{escape(name)}</text>')
    return parts
