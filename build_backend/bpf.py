"""Compiles bpf/*.bpf.c and links them with libbpf's own linker into the one object that meshd loads.

One object, so that maps declared in a shared header are the same map by definition. The linker drops DWARF
and keeps BTF and CO-RE relocations. A source is compiled again only when it, a header it includes, the flags
or the compiler changed.

    python -m build_backend.bpf            brings meshd/kernel/meshd.bpf.o up to date
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_backend.toolchain import (
    BuildError,
    architecture,
    bpf_compiler,
    compiler_version,
    uapi_directories,
)

ROOT = Path(__file__).resolve().parent.parent
OBJECT = ROOT / "meshd" / "kernel" / "meshd.bpf.o"


def build(root: Path = ROOT, target: Path | None = None) -> bool:
    """Brings the object of the programs in ``root``/bpf up to date; True where it had to be linked again.

    Raises:
        BuildError: no compiler, no program, or a program that does not compile (with the compiler's words).
    """
    sources = sorted((root / "bpf").glob("*.bpf.c"))
    if not sources:
        raise BuildError(f"no BPF program in {root / 'bpf'}: the source tree is not complete")
    return link_programs(
        sources, target or root / "meshd" / "kernel" / "meshd.bpf.o", root / "build" / "bpf", root
    )


def link_programs(sources: list[Path], target: Path, work: Path, root: Path = ROOT) -> bool:
    """Compiles ``sources`` (in parallel) and links them into ``target``; True where anything was stale.

    ``work`` keeps the single objects and the stamps that tell what is fresh; a second build of it waits for the first.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _link_if_stale(sources, target, work, root)


def _link_if_stale(sources: list[Path], target: Path, work: Path, root: Path) -> bool:
    command = _compile_command(root)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        stamps = list(pool.map(lambda source: _compile(source, work, command, root), sources))
    key = _digest("".join([*stamps, *(source.name for source in sources)]).encode())
    stamp = work / f"{target.name}.stamp"
    if target.exists() and stamp.exists() and stamp.read_text() == f"{key} {_file_digest(target)}":
        return False
    _link([work / f"{source.name}.o" for source in sources], target)
    stamp.write_text(f"{key} {_file_digest(target)}")
    return True


def _compile_command(root: Path) -> list[str]:
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Werror"]
    # Paths of the build machine stay out of BTF's line information: equal sources give equal objects
    # everywhere.
    places = [f"-D__TARGET_ARCH_{architecture()}", f"-I{root / 'bpf'}", f"-ffile-prefix-map={root}/="]
    # After everything else, so that they never hide a header of the compiler's own.
    system = [flag for path in uapi_directories() for flag in ("-idirafter", str(path))]
    return [*bpf_compiler(), *flags, *places, *system]


def _compile(source: Path, work: Path, command: list[str], root: Path) -> str:
    """Compiles one source unless its stamp is current; the digest of all that went into it."""
    target, stamp = work / f"{source.name}.o", work / f"{source.name}.json"
    identity = _digest("\0".join([*command, compiler_version(bpf_compiler()), str(source)]).encode())
    fresh = _current_digest(stamp, identity) if target.exists() else None
    if fresh is not None:
        return fresh
    dependencies = target.with_suffix(".d")
    done = subprocess.run(
        [*command, "-MD", "-MF", str(dependencies), "-c", str(source), "-o", str(target)],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    if done.returncode != 0:
        target.unlink(missing_ok=True)
        raise BuildError(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
    inputs = {str(path): _file_digest(path) for path in _read_dependencies(dependencies, root)}
    stamp.write_text(json.dumps({"identity": identity, "inputs": inputs}, indent=1))
    return _combined(identity, inputs)


def _current_digest(stamp: Path, identity: str) -> str | None:
    """The digest of what a finished compilation used, or None when any of it changed or is gone."""
    try:
        recorded = json.loads(stamp.read_text())
        if recorded["identity"] != identity:
            return None
        if any(_file_digest(Path(path)) != digest for path, digest in recorded["inputs"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return _combined(identity, recorded["inputs"])


def _combined(identity: str, inputs: dict[str, str]) -> str:
    return _digest(json.dumps([identity, sorted(inputs.items())]).encode())


def _read_dependencies(path: Path, root: Path) -> list[Path]:
    """The files a compiler's dependency rule names, which is `target: file file \\` over several lines."""
    names = path.read_text().split(":", 1)[1].replace("\\\n", " ").split()
    return [root / name for name in names]


def _file_digest(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _link(objects: list[Path], target: Path) -> None:
    """Links through libbpf; a failure leaves no half-written target."""
    libbpf = _load_libbpf()
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    linker = libbpf.bpf_linker__new(os.fsencode(partial), None)
    if not linker:
        raise BuildError(f"libbpf cannot create {partial}: {os.strerror(ctypes.get_errno())}")
    try:
        for path in objects:
            if libbpf.bpf_linker__add_file(linker, os.fsencode(path), None) != 0:
                raise BuildError(f"libbpf cannot link {path.name}: {os.strerror(ctypes.get_errno())}")
        if libbpf.bpf_linker__finalize(linker) != 0:
            raise BuildError(f"libbpf cannot finish {target.name}: {os.strerror(ctypes.get_errno())}")
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        libbpf.bpf_linker__free(linker)
        partial.unlink(missing_ok=True)


def _load_libbpf() -> ctypes.CDLL:
    name = ctypes.util.find_library("bpf")
    if name is None:
        raise BuildError("the library libbpf is missing: `apt-get install libbpf-dev`")
    libbpf = ctypes.CDLL(name, use_errno=True)
    libbpf.bpf_linker__new.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    libbpf.bpf_linker__new.restype = ctypes.c_void_p
    libbpf.bpf_linker__add_file.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    libbpf.bpf_linker__finalize.argtypes = [ctypes.c_void_p]
    libbpf.bpf_linker__free.argtypes = [ctypes.c_void_p]
    return libbpf


def main() -> int:
    """Builds the object; says what was done and how long it took."""
    started = time.monotonic()
    try:
        changed = build()
    except BuildError as error:
        sys.stderr.write(f"build: {error}\n")
        return 1
    done = "linked" if changed else "is up to date"
    sys.stdout.write(f"{OBJECT.relative_to(ROOT)} {done} ({time.monotonic() - started:.1f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
