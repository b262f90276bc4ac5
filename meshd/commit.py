"""Of which commit this program is: what bug reports, the demo's report and the benches carry."""

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
# Written into wheels and source distributions by build_backend/commit.py.
NOTED = "COMMIT"


def commit(package: Path = PACKAGE) -> str:
    """The commit of ``package``: of the git tree it stands in, else what was noted when it was built; empty: neither.

    ``-changed`` follows where tracked files differ from that commit.
    """
    tree = package.parent
    # Asked first: in the virtual environment of somebody else's repository, git would answer with that repository's commit.
    if (tree / ".git").exists():
        return of_tree(tree)
    try:
        return (package / NOTED).read_text().strip()
    except OSError:
        return ""


def of_tree(tree: Path) -> str:
    """The commit of git tree ``tree``; empty where git cannot say."""
    command = [
        "git",
        "-C",
        str(tree),
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty=-changed",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
