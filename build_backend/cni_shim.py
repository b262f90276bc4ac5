"""Compiles deploy/cni/meshd_cni.c for both machines that meshd runs on: what `meshctl cni install` puts where a container
runtime looks. Nothing is linked in, so no libc of any machine matters and it takes a moment.

    python -m build_backend.cni_shim       brings meshd/ctl/meshd-cni.* up to date
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from build_backend.toolchain import BuildError, bpf_compiler, compiler_version

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
# -fno-builtin: our memcpy must not become a call of itself. No stack protector: there is nobody it could call.
FLAGS = (
    "-Os", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
    "-nostdinc", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip


def target(machine: str, root: Path = ROOT) -> Path:
    """Where the shim for ``machine`` is."""
    return root / "meshd" / "ctl" / f"meshd-cni.{machine}"


def build(root: Path = ROOT) -> bool:
    """Brings both up to date; True where anything was made.

    Raises:
        BuildError: no compiler or linker, or it does not compile (with the compiler's words).
    """
    source = root / "deploy" / "cni" / "meshd_cni.c"
    work = root / "build" / "cni"
    work.mkdir(parents=True, exist_ok=True)
    made = [_build(source, machine, root, work) for machine in MACHINES]
    return any(made)


def _build(source: Path, machine: str, root: Path, work: Path) -> bool:
    compiler, linker = bpf_compiler(), cross_linker()
    compile_ = [*compiler, "-target", f"{machine}-linux-none", *FLAGS]
    made, stamp = target(machine, root), work / f"{machine}.stamp"
    inputs = [source.read_bytes(), source.with_name("bare.h").read_bytes()]
    words = "\0".join([*compile_, *linker, compiler_version(compiler)]).encode()
    key = hashlib.sha256(b"\0".join([words, *inputs])).hexdigest()
    if made.exists() and stamp.exists() and stamp.read_text() == f"{key} {_digest(made)}":
        return False
    unlinked, partial = work / f"{machine}.{os.getpid()}.o", made.with_name(f".{made.name}.{os.getpid()}")
    try:
        _run([*compile_, "-c", str(source), "-o", str(unlinked)])
        _run([*linker, "-static", "-s", "--gc-sections", "-o", str(partial), str(unlinked)])
        partial.chmod(0o755)
        partial.replace(made)
    finally:
        unlinked.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    stamp.write_text(f"{key} {_digest(made)}")
    return True


def cross_linker() -> tuple[str, ...]:
    """The command that links for any machine.

    Raises:
        BuildError: neither lld nor the `ziglang` wheel is here.
    """
    lld = shutil.which("ld.lld")
    if lld is not None:
        return (lld,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "ld.lld")
    raise BuildError(
        "no ld.lld and no `ziglang` wheel to link the CNI shim: `pip install ziglang` or `apt-get install lld`"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"the CNI shim cannot be built:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Builds both; says what was done."""
    try:
        changed = build()
    except BuildError as error:
        sys.stderr.write(f"build: {error}\n")
        return 1
    for machine in MACHINES:
        path = target(machine)
        done = "linked" if changed else "is up to date"
        sys.stdout.write(f"{path.relative_to(ROOT)} {done} ({path.stat().st_size} bytes)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
