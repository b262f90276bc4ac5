"""Everything a fresh Debian machine lacks for one make target, step by step with times; what is there is left alone.

    python3 -m scripts.setup constraints|check|demo|bench|test|kernels

A step is made again when what it is made from changed (``stamps.py``), so that a second run takes well under a second.
Nothing outside the tree is changed but Debian's packages.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from scripts import debian, stamps
from scripts.kernels import images, machine
from scripts.kubernetes import components

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "set-up"
LOGS = ROOT / "build" / "set-up"
CONSTRAINTS = ROOT / "constraints.txt"
BUILT_FROM = (
    "bpf/**/*.[ch]",
    "deploy/cni/*.[ch]",
    "build_backend/**/*.py",
    "meshd/kernel/*.[ch]",
    "meshd/bench/*.c",
    "setup.py",
    "MANIFEST.in",
)
BUILT = (
    "meshd/kernel/meshd.bpf.o",
    "meshd/kernel/_libbpf*.so",
    "meshd/ctl/meshd-cni.*",
    "meshd/bench/path-probe",
    ".venv/bin/meshd",
    ".venv/bin/meshctl",
)

# Asked of the build backend itself, which alone knows whether this machine's clang will do.
ASK_BACKEND = """
import json, sys
sys.path[:0] = [".", "build_backend"]
stdout, sys.stdout = sys.stdout, sys.stderr
import backend
json.dump(backend.get_requires_for_build_editable(), stdout)
"""


class StepFailed(Exception):
    """A step of the set-up failed; the text says why and what to do."""


def main(arguments: list[str]) -> int:
    """Status 0 when all is there, 1 with the reason, 2 for an unknown purpose."""
    if len(arguments) != 1 or arguments[0] not in debian.PACKAGES:
        sys.stderr.write(f"usage: python3 -m scripts.setup {'|'.join(debian.PACKAGES)}\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    os.chdir(ROOT)
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name, do in steps_for(arguments[0]):
                step(name, do)
        except StepFailed as error:
            sys.stderr.write(f"set-up: {error}\n")
            return 1
    return 0


def _leave(number: int, _frame: object) -> NoReturn:
    """As an exception, so that every ``finally`` on the way is heeded."""
    sys.exit(128 + number)


Do = Callable[[], bool]


def steps_for(purpose: str) -> list[tuple[str, Do]]:
    """The steps in their order: what each is called, and what does it and answers whether anything had to be done."""
    extras = {"test": ["dev", "test"], "check": ["dev"], "kernels": ["dev"]}.get(purpose, [])
    steps: list[tuple[str, Do]] = [
        ("Debian packages", lambda: debian_packages(purpose)),
        ("virtual environment", virtual_environment),
    ]
    if purpose != "constraints":
        steps.append(("Python packages", lambda: python_packages(extras)))
    if purpose not in {"constraints", "check"}:
        steps += [("build tools", build_tools), ("cffi extension and BPF object", build)]
    if purpose == "kernels":
        steps.append(("kernels", kernels))
    if purpose == "test":
        steps.append(("Kubernetes, CoreDNS and Helm", kubernetes))
    return steps


def step(name: str, do: Do) -> None:
    """Says what is done before it is, and how long it took after."""
    started = time.monotonic()
    sys.stdout.write(f"set-up: {name} ... ")
    sys.stdout.flush()
    try:
        changed = do()
    except BaseException:
        sys.stdout.write("failed\n")
        sys.stdout.flush()
        raise
    sys.stdout.write(f"{time.monotonic() - started:.1f} s\n" if changed else "unchanged\n")
    sys.stdout.flush()


def debian_packages(purpose: str) -> bool:
    """Installs what dpkg does not have. Where we may not, whether it matters is for the step that needs it to find out."""
    return debian_packages_named(debian.PACKAGES[purpose])


def debian_packages_named(names: Iterable[str]) -> bool:
    """The same for packages that are no purpose's."""
    packages = debian.missing(names)
    if not packages:
        return False
    sys.stdout.write(f"{' '.join(packages)} ... ")
    sys.stdout.flush()
    try:
        debian.install(packages, LOGS / "debian.log")
    except debian.InstallError as error:
        if os.geteuid() == 0 and debian.installed():
            raise StepFailed(str(error)) from error
        sys.stdout.write(f"{error} ... going on without ... ")
    return True


def virtual_environment() -> bool:
    """Any environment whose Python still runs and is new enough will do; else a new one, from the Python we run on."""
    runs = [str(PYTHON), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"]
    if PYTHON.exists() and subprocess.run(runs, capture_output=True, check=False).returncode == 0:
        return False
    run("virtual-environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    return True


def python_packages(extras: list[str]) -> bool:
    """What pyproject.toml asks for, in the versions of constraints.txt."""
    project = _pyproject()["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in extras for one in project["optional-dependencies"][extra]),
    ]
    return _pip("-".join(["python-packages", *extras]), wanted)


def build_tools() -> bool:
    """What the build needs, kept in the environment: a compiler takes longer to unpack than to run."""
    changed = _pip("build-tools", _pyproject()["build-system"]["requires"])
    key = stamps.key_of(ROOT, _files(BUILT_FROM), [_python_facts(), os.environ.get("PATH", "")])
    if stamps.is_current(STAMPS / "backend", key):
        return changed
    answer = run("backend", [str(PYTHON), "-c", ASK_BACKEND])
    changed |= _pip("build-tools-asked-for", json.loads(answer))
    stamps.write(STAMPS / "backend", key)
    return changed


def build() -> bool:
    """An editable install of meshd: the extension and the object land in the source tree, git ignores them."""
    settings = json.dumps(
        {name: table for name, table in _pyproject().items() if name in {"project", "build-system"}}
    )
    key = stamps.key_of(ROOT, _files(BUILT_FROM), [_python_facts(), settings])
    if stamps.is_current(STAMPS / "build", key) and all(any(ROOT.glob(product)) for product in BUILT):
        return False
    options = ["--no-deps", "--no-build-isolation", "--editable", "."]
    run("build", [str(PYTHON), "-m", "pip", "install", "--quiet", *options])
    stamps.write(STAMPS / "build", key)
    return True


def kernels() -> bool:
    """Debian's kernels for guests, in build/kernels."""
    if machine.virtiofsd() is None:
        # Of its own since Debian 13; before, in a package that QEMU needs anyway.
        debian_packages_named(("virtiofsd",))
    try:
        return images.fetch_missing()
    except images.KernelError as error:
        raise StepFailed(str(error)) from error


def kubernetes() -> bool:
    """Kubernetes' programs, in build/kubernetes; the first time takes minutes, so it says what it is at."""

    def tell(module: str) -> None:
        sys.stdout.write(f"{module} ... ")
        sys.stdout.flush()

    try:
        return components.build_missing(LOGS / "kubernetes.log", tell)
    except components.ComponentsError as error:
        raise StepFailed(str(error)) from error


def _pip(name: str, wanted: list[str]) -> bool:
    key = stamps.key_of(ROOT, [CONSTRAINTS], [_python_facts(), *wanted])
    if stamps.is_current(STAMPS / name, key):
        return False
    if wanted:
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", f"--constraint={CONSTRAINTS}", *wanted]
        run(name, command, hint="if pyproject.toml asks for something new: make constraints")
    stamps.write(STAMPS / name, key)
    return True


def run(name: str, command: list[str], hint: str = "") -> str:
    """The standard output of ``command``; all it said is kept in build/set-up/``name``.log.

    Raises:
        StepFailed: another status than 0; carries the last lines.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log = LOGS / f"{name}.log"
    log.write_text(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        more = f"\n  ({hint})" if hint else ""
        raise StepFailed(f"{name} failed ({log.relative_to(ROOT)} has all of it):\n  {last}{more}")
    return done.stdout


def _files(patterns: tuple[str, ...]) -> list[Path]:
    made = {ROOT / "meshd/kernel/_libbpf.c"}
    return [
        path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file() and path not in made
    ]


def _pyproject() -> dict[str, Any]:
    # Any: TOML is what it is; each reader names the table it wants.
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _python_facts() -> str:
    """The environment's own Python: another one needs other wheels and another extension."""
    return (VENV / "pyvenv.cfg").read_text()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
