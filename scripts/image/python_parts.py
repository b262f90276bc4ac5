"""What the image has of Python's packages: a virtual environment in /opt/meshd with what meshd needs, and with meshd.

Wheels are chosen for the image's Python and libc, not for this machine's; versions are those of constraints.txt. Nothing
that installs or compiles is left in it, and all bytecode is there, because the agent's root cannot be written to.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.image.debian_root import Debian, python_in
from scripts.image.run import ImageError, run

HOME = Path("opt/meshd")
# Of the tree: what a wheel is built from.
SOURCES = (
    "LICENSE",
    "LICENSES",
    "MANIFEST.in",
    "README.md",
    "bpf",
    "build_backend",
    "clustermesh",
    "deploy/cni",
    "meshd",
    "pyproject.toml",
    "setup.py",
)
LAUNCHER = """#!/{home}/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""


def sources(tree: Path) -> list[Path]:
    """The files of ``tree`` that a wheel is built from, committed or not; nothing that was made there."""
    listed = run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        directory=tree,
    )
    return [path for name in sorted(set(listed.split("\0"))) if name and (path := tree / name).is_file()]


def wheel(tree: Path, files: Iterable[Path], commit: str, scratch: Path, epoch: int) -> Path:
    """meshd's wheel, built from a copy of ``files`` in ``scratch``: what others in ``tree`` use is not touched.

    Raises:
        ImageError: the build failed, or one of ``files`` is gone.
    """
    copy = scratch / "source"
    for file in files:
        target = copy / file.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(file, target)
        except FileNotFoundError as error:
            raise ImageError(f"{file.relative_to(tree)} went away while the image was made: again") from error
    (copy / "meshd" / "COMMIT").write_text(f"{commit}\n")
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        # Debug information would name this directory.
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} -g0",
        "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} -Wl,--strip-all",
    }
    built = scratch / "wheel"
    run(
        [*_pip("wheel"), "--no-deps", "--no-build-isolation", f"--wheel-dir={built}", str(copy)],
        environment=environment,
    )
    shutil.rmtree(copy)
    return next(built.glob("*.whl"))


def install(
    debian: Debian, opt: Path, wanted: Sequence[str], machine: str, constraints: Path | None = None
) -> None:
    """Puts ``wanted`` (requirements or wheels) into the environment below ``opt``, compiled; with ``constraints`` also
    what they need.

    Raises:
        ImageError: a package has no wheel for the image's Python, or pip failed.
    """
    site = site_packages(debian, opt)
    major, minor = debian.python
    choice = [
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={major}.{minor}",
        *(f"--platform={name}" for name in platforms(debian.libc, machine)),
    ]
    needs = [f"--constraint={constraints}"] if constraints is not None else ["--no-deps"]
    run([*_pip("install"), "--no-compile", f"--target={site}", *choice, *needs, *wanted])
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info/RECORD"):
        forget_this_machine(record)
    python_in(
        debian,
        opt,
        *("-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"),
        f"/{site_packages(debian, Path('opt'))}",
    )


def platforms(libc: tuple[int, int], machine: str) -> list[str]:
    """The tags of wheels that a Debian with glibc ``libc`` runs, the newest first (PEP 600)."""
    major, newest = libc
    named = [f"manylinux_{major}_{minor}_{machine}" for minor in range(newest, 16, -1)]
    return [*named, f"manylinux2014_{machine}", f"linux_{machine}"]


def site_packages(debian: Debian, opt: Path) -> Path:
    major, minor = debian.python
    return opt / HOME.name / "lib" / f"python{major}.{minor}" / "site-packages"


def environment(debian: Debian, opt: Path) -> None:
    """The environment itself: Python's venv makes the same, from inside."""
    major, minor = debian.python
    home = opt / HOME.name
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {major}.{minor}\n"
    )


def launchers(opt: Path, scripts: Mapping[str, str]) -> None:
    """The programs, by name: ``module:function`` of pyproject.toml."""
    directory = opt / HOME.name / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    for name, place in scripts.items():
        module, _, function = place.partition(":")
        launcher = directory / name
        launcher.write_text(LAUNCHER.format(home=HOME, module=module, function=function))
        launcher.chmod(0o755)


def commit_time(tree: Path) -> int:
    """When the commit of ``tree`` was made, in seconds.

    Raises:
        ImageError: ``tree`` is no git tree.
    """
    return int(run(["git", "log", "-1", "--format=%ct"], directory=tree))


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-cache-dir"]


def forget_this_machine(record: Path) -> None:
    """Where a wheel lay, and launchers that name this machine's Python, are no part of the image."""
    gone = ("bin/", "../../bin/", f"{record.parent.name}/direct_url.json")
    (record.parent / "direct_url.json").unlink(missing_ok=True)
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if not line.startswith(gone)))
