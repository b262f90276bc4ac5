"""A report of `meshctl bench short-circuit` as a picture: latency by message size, both on log scales, a panel a placement.

Written as SVG by hand: it is lines and words, and no library is needed for these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from meshd.bench.path_results import LOOPBACK, ROUTING
from meshd.bench.report import Report
from meshd.bench.short_circuit_lanes import BYTES
from meshd.bench.short_circuit_results import (
    FLOOR,
    NOT_SELECTED,
    ONE_ENVOY,
    PLACEMENTS,
    SELECTED,
    TWO_ENVOYS,
    UNIX,
)

# From above to below, as the lines mostly lie. Colours that people who see fewer of them can tell apart (Okabe and Ito).
COLOURS = {
    TWO_ENVOYS: "#d55e00",
    ONE_ENVOY: "#e69f00",
    ROUTING: "#000000",
    NOT_SELECTED: "#56b4e9",
    LOOPBACK: "#999999",
    UNIX: "#009e73",
    SELECTED: "#0072b2",
    FLOOR: "#cc79a7",
}
WIDTH, HEIGHT = 300, 330
LEFT, TOP, GAP, BELOW = 56, 40, 24, 74
TICKS = tuple(factor * 10**power for power in range(5) for factor in (1, 2, 5))
# Of the floor, which has no message.
_WAKE_UP = "wake-up p50"


@dataclass(frozen=True, slots=True)
class Panel:
    """One placement. ``lines``: path -> microseconds by size in bytes."""

    name: str
    lines: dict[str, dict[int, float]]


def drawn(finished: Report) -> str:
    """The SVG."""
    panels = [each for name in PLACEMENTS if (each := _panel(finished, name)).lines]
    values = [value for panel in panels for line in panel.lines.values() for value in line.values()]
    scale = _Scale(min(values) / 1.25, max(values) * 1.25)
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + BELOW}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(_title(finished))}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT - 6}" y="{TOP - 14}" text-anchor="end">p50</text>',
        *_ticks(scale, width),
    ]
    for number, panel in enumerate(panels):
        parts += _drawn(panel, LEFT + number * (WIDTH + GAP), scale)
    present = [path for path in COLOURS if any(path in panel.lines for panel in panels)]
    parts += [*_legend(present, width), "</svg>"]
    return "\n".join(parts) + "\n"


def _title(finished: Report) -> str:
    return f"round trip p50 in microseconds by message size, kernel {finished.kernel}, {finished.cpus} CPUs"


def _panel(finished: Report, placement: str) -> Panel:
    lines: dict[str, dict[int, float]] = {}
    for each in finished.rows:
        if each.case != placement or each.path not in COLOURS:
            continue
        if each.metric == _WAKE_UP:
            lines[each.path] = dict.fromkeys(BYTES.values(), each.value)
        size = BYTES.get(each.metric.removesuffix(" p50"))
        if size is not None:
            lines.setdefault(each.path, {})[size] = each.value
    return Panel(placement, lines)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Microseconds to a place on the page, logarithmically."""

    low: float
    high: float

    def y(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return TOP + HEIGHT * (1 - share)


def _x(size: int, left: float) -> float:
    first, last = min(BYTES.values()), max(BYTES.values())
    return left + 12 + (WIDTH - 24) * math.log(size / first) / math.log(last / first)


def _ticks(scale: _Scale, width: float) -> Iterator[str]:
    for value in TICKS:
        if scale.low <= value <= scale.high:
            y = scale.y(value)
            yield f'<line x1="{LEFT}" x2="{width - GAP}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e6e6e6"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value} µs</text>'


def _drawn(panel: Panel, left: float, scale: _Scale) -> Iterator[str]:
    middle = left + WIDTH / 2
    yield f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#666666"/>'
    yield f'<text x="{middle}" y="{TOP - 14}" text-anchor="middle" font-weight="bold">{escape(panel.name)}</text>'
    for name, size in BYTES.items():
        x = _x(size, left)
        yield f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{escape(name)}</text>'
    for path, colour in COLOURS.items():
        if path in panel.lines:
            yield from _line(panel.lines[path], colour, left, scale, path)


def _line(line: dict[int, float], colour: str, left: float, scale: _Scale, path: str) -> Iterator[str]:
    points = [(_x(size, left), scale.y(value)) for size, value in sorted(line.items())]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    # What has no message has no points either.
    dashes = ' stroke-dasharray="5 4"' if path == FLOOR else ""
    thick = 3 if path == SELECTED else 1.6
    yield f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="{thick}"{dashes}/>'
    if path != FLOOR:
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)


def _legend(paths: list[str], width: float) -> Iterator[str]:
    columns = 4
    for number, path in enumerate(paths):
        x = LEFT + number % columns * (width - LEFT - GAP) / columns
        y = TOP + HEIGHT + 42 + number // columns * 20
        dashes = ' stroke-dasharray="5 4"' if path == FLOOR else ""
        yield (
            f'<line x1="{x:.1f}" x2="{x + 24:.1f}" y1="{y - 4}" y2="{y - 4}" '
            f'stroke="{COLOURS[path]}" stroke-width="3"{dashes}/>'
        )
        yield f'<text x="{x + 30:.1f}" y="{y}">{escape(path)}</text>'
