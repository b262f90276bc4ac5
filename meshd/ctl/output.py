"""How answers are shown: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Row = TypeVar("Row")

RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"

# What a word at the beginning of a cell says of how things stand.
COLOURS = {
    **dict.fromkeys(("settled", "ready", "synced", "complete", "present"), GREEN),
    **dict.fromkeys(
        ("pending", "serving", "connecting", "listing", "stale", "overridden", "terminating"), YELLOW
    ),
    **dict.fromkeys(("failed", "not", "gone", "absent", "unreachable"), RED),
}


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table; ``wide`` ones are shown with -o wide only."""

    title: str
    cell: Callable[[Row], str]
    wide: bool = False


def show(name: str, rows: Sequence[Any], columns: Sequence[Column[Any]], output: str) -> None:
    """Print ``rows`` (messages) as ``output`` says; for programs as a list below ``name``."""
    if output in {"json", "yaml"}:
        show_object({name: [as_dict(row) for row in rows]}, output)
        return
    shown = [column for column in columns if output == "wide" or not column.wide]
    print_table([column.title for column in shown], [[column.cell(row) for column in shown] for row in rows])


def show_object(value: object, output: str) -> None:
    """Print ``value`` (dicts and lists) as JSON or YAML."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415 - late: 20 ms that most commands do not need

    print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")


def as_dict(message: Message) -> dict[str, Any]:
    """``message`` as protobuf's JSON, fields that are false or zero included, so that programs find them."""
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Left-aligned columns, as wide as they must be."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    print(line([coloured(title, BOLD) for title in titles], titles, widths))
    for row in rows:
        print(line([by_word(cell) for cell in row], row, widths))


def line(painted: Sequence[str], plain: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table; colours take no room."""
    cells = [
        paint + " " * (width - len(text)) for paint, text, width in zip(painted, plain, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def by_word(cell: str) -> str:
    """``cell`` in the colour of its first word, if that says how something stands."""
    colour = COLOURS.get(cell.split(" ", 1)[0].rstrip(":"))
    return coloured(cell, colour) if colour else cell


def coloured(text: str, colour: str) -> str:
    """``text`` in ``colour`` where that can be seen."""
    return f"\x1b[{colour}m{text}\x1b[0m" if text and colours_wanted() else text


def colours_wanted() -> bool:
    """On a terminal, unless the user wants none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def age(since_s: float, now_s: float) -> str:
    """How long ago: ``42s``, ``7m``, ``3h``, ``5d``."""
    passed = max(0, int(now_s - since_s))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= 2 * length:
            return f"{passed // length}{unit}"
    return f"{passed}s"


def size(count: float) -> str:
    """Bytes as people read them: ``640 KiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
