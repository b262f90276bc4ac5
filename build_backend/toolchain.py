"""The compilers and headers a build needs, found on this machine or named in one sentence.

Debian 12's clang 14 merges branches into context accesses that the verifier refuses, so BPF needs clang >=
17. Where there is none, the PyPI wheel `ziglang` carries a complete clang with the BPF backend.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

OLDEST_CLANG = 17
NEWEST_CLANG_NAME = 25


class BuildError(Exception):
    """The package cannot be built here; the message is one sentence that says what to install or mend."""


def system_clang() -> str | None:
    """The path of the first clang on PATH that is new enough and can compile for BPF, or None."""
    names = ["clang", *(f"clang-{version}" for version in range(NEWEST_CLANG_NAME, OLDEST_CLANG - 1, -1))]
    for name in names:
        path = shutil.which(name)
        if path is not None and _clang_major(path) >= OLDEST_CLANG and _targets_bpf(path):
            return path
    return None


def _clang_major(path: str) -> int:
    found = re.search(r"clang version (\d+)", _output([path, "--version"]))
    return int(found.group(1)) if found else 0


def _targets_bpf(path: str) -> bool:
    return re.search(r"^\s+bpf\s", _output([path, "-print-targets"]), re.MULTILINE) is not None


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@cache
def bpf_compiler() -> tuple[str, ...]:
    """The command that compiles BPF C.

    Raises:
        BuildError: neither a clang >= 17 nor the `ziglang` wheel is here.
    """
    clang = system_clang()
    if clang is not None:
        return (clang,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "clang")
    raise BuildError(
        f"no clang >= {OLDEST_CLANG} and no `ziglang` wheel to compile BPF: `pip install ziglang` "
        f"or `apt-get install clang-{OLDEST_CLANG}`"
    )


@cache
def compiler_version(command: tuple[str, ...]) -> str:
    """What ``command`` says of itself; part of the key that decides whether an object is fresh."""
    return _output([*command, "--version"])


def architecture() -> str:
    """This machine in libbpf's spelling, as in ``__TARGET_ARCH_x86``."""
    machine = platform.machine()
    names = {"x86_64": "x86", "aarch64": "arm64"}
    if machine not in names:
        raise BuildError(f"meshd runs on x86_64 and aarch64, not on {machine}")
    return names[machine]


def uapi_directories() -> list[Path]:
    """Where <linux/bpf.h>, <bpf/bpf_helpers.h> and the <asm/types.h> they include are found.

    Distributions with multiarch keep asm/ below a directory named after the machine.
    """
    multiarch = f"{platform.machine()}-linux-gnu"
    return [path for path in (Path("/usr/include"), Path("/usr/include") / multiarch) if path.is_dir()]


def c_compiler() -> list[str]:
    """The C compiler for the extension: $CC, else the one Python was built with, else cc or gcc.

    Raises:
        BuildError: there is none.
    """
    candidates = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    for candidate in candidates:
        if candidate and shutil.which(shlex.split(candidate)[0]):
            return shlex.split(candidate)
    raise BuildError("no C compiler found: `apt-get install gcc libc6-dev`")


def require_c_toolchain() -> None:
    """Proves that the extension will compile, with a sentence for each thing that may be missing.

    Raises:
        BuildError: no C compiler, no libbpf headers, or no Python headers; names the Debian package.
    """
    compiler = c_compiler()
    os.environ.setdefault("CC", shlex.join(compiler))
    _require_header(compiler, "stdio.h", "libc6-dev")
    _require_header(compiler, "bpf/bpf.h", "libbpf-dev")
    _require_header(compiler, "bpf/libbpf.h", "libbpf-dev")
    _require_header(compiler, "Python.h", "python3-dev", "-I" + sysconfig.get_path("include"))


def _require_header(compiler: list[str], header: str, package: str, *flags: str) -> None:
    source = f"#include <{header}>\n"
    done = subprocess.run(
        [*compiler, *flags, "-E", "-x", "c", "-"], input=source, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"the C header <{header}> is missing: `apt-get install {package}`")
