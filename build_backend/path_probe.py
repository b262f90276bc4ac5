"""Compiles meshd/bench/path_probe*.c, both ends of what `meshctl bench path` measures, for this machine.

python -m build_backend.path_probe       brings meshd/bench/path-probe up to date
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from build_backend.toolchain import BuildError, c_compiler, compiler_version

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def build(root: Path = ROOT) -> bool:
    """Brings it up to date; True where it was made.

    Raises:
        BuildError: no compiler, or it does not compile (with the compiler's words).
    """
    bench = root / "meshd" / "bench"
    sources, made = sorted(bench.glob("path_probe*.[ch]")), bench / "path-probe"
    stamp = root / "build" / "bench" / "path-probe.stamp"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    compiler = c_compiler()
    words = "\0".join([*compiler, *FLAGS, compiler_version(tuple(compiler))]).encode()
    key = hashlib.sha256(words + b"".join(each.read_bytes() for each in sources)).hexdigest()
    if made.exists() and stamp.exists() and stamp.read_text() == f"{key} {_digest(made)}":
        return False
    partial = made.with_name(f".{made.name}.{os.getpid()}")
    try:
        units = [str(each) for each in sources if each.suffix == ".c"]
        command = [*compiler, *FLAGS, "-o", str(partial), *units]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"the probe of the path bench cannot be built:\n{done.stdout}{done.stderr}")
        partial.replace(made)
    finally:
        partial.unlink(missing_ok=True)
    stamp.write_text(f"{key} {_digest(made)}")
    return True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Builds it; says what was done."""
    try:
        changed = build()
    except BuildError as error:
        sys.stderr.write(f"build: {error}\n")
        return 1
    sys.stdout.write(f"meshd/bench/path-probe {'compiled' if changed else 'is up to date'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
