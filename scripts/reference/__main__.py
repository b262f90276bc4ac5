"""Writes docs/reference from the code; with --check, says which page is not what the code says now.

python -m scripts.reference [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.reference import commands, drops, metrics, options

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "reference"
MADE = "<!-- Written by `python -m scripts.reference` from the code: change that. -->\n\n"


def pages() -> dict[str, str]:
    """File name -> the whole page."""
    written = {
        "options.md": options.page(),
        "metrics.md": metrics.page(ROOT / "meshd"),
        "drops.md": drops.page((ROOT / "bpf/maps/drops.h").read_text()),
        "meshctl.md": commands.page(),
    }
    return {name: MADE + text.rstrip() + "\n" for name, text in written.items()}


def main(arguments: list[str]) -> int:
    """0: written, or fresh."""
    wanted = pages()
    if arguments != ["--check"]:
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            (DIRECTORY / name).write_text(text)
        return 0
    stale = [name for name, text in wanted.items() if not _says(DIRECTORY / name, text)]
    stale += [path.name for path in DIRECTORY.iterdir() if path.name not in wanted]
    for name in stale:
        print(f"docs/reference/{name} is not what the code says now")
    return 1 if stale else 0


def _says(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
