"""Writes constraints.txt: the newest versions that fit pyproject.toml, for every set-up alike.

.venv/bin/python -m scripts.constraints
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# The versions that set-up installs, written by `make constraints`. A user's pip has the ranges of pyproject.toml.\n"
# Asked for by the build backend only where there is no clang >= 17; pinned for those machines too.
SOMETIMES = ("ziglang",)


def main() -> int:
    """Status 1 where no versions fit together, with pip's reason."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
        *pyproject["build-system"]["requires"],
        *SOMETIMES,
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report=-",
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        return 1
    chosen = {
        each["metadata"]["name"].lower(): each["metadata"]["version"]
        for each in json.loads(done.stdout)["install"]
    }
    (ROOT / "constraints.txt").write_text(
        HEAD + "".join(f"{name}=={chosen[name]}\n" for name in sorted(chosen))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
