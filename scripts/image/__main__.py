"""`make image`: build/image/meshd-VERSION.tar, the agent's, and meshd-etcd-VERSION.tar, that of the mesh's etcd.

Step by step with times; a step whose parts did not change is left out.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from meshd.commit import of_tree
from scripts import stamps
from scripts.image import archive, debian_root, etcd_part, layer, python_parts
from scripts.image.archive import Image
from scripts.image.layer import Layer
from scripts.image.run import ImageError

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "image"
CONSTRAINTS = ROOT / "constraints.txt"
NAME = "meshd"
ETCD = "meshd-etcd"
# Of every file in the image: the second day, because the first is zero, and in /etc/shadow that means something.
EPOCH = 86400


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer, in a directory of its own below ``BUILD``; made by ``make(directory)`` when ``key`` is a new one."""

    name: str
    key: str
    make: Callable[[Path], Layer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0 and where the image is, or 1 and why there is none."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=__doc__)
    version = project()["version"]
    parser.add_argument("--output", type=Path, default=BUILD / f"{NAME}-{version}.tar", metavar="FILE")
    parser.add_argument("--tag", default=version, help="default: %(default)s")
    parser.add_argument(
        "--fresh", action="store_true", help="Debian's newest packages, not those of the last time"
    )
    options = parser.parse_args(arguments)
    if options.fresh:
        for part in ("debian", "etcd"):
            shutil.rmtree(BUILD / part, ignore_errors=True)
    try:
        print("\n".join(build(options.output.absolute(), options.tag)))
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


def etcd_beside(output: Path) -> Path:
    """Where the archive of the mesh's etcd is when the agent's is at ``output``."""
    return output.with_name(
        output.name.replace(NAME, ETCD, 1) if NAME in output.name else f"{ETCD}-{output.name}"
    )


def build(output: Path, tag: str) -> tuple[str, str]:
    """The agent's archive is at ``output``, and that of the mesh's etcd beside it; a line about each.

    Raises:
        ImageError: a part could not be made.
    """
    if os.geteuid() != 0:
        raise ImageError("a root file system is made as root")
    BUILD.mkdir(parents=True, exist_ok=True)
    machine, commit = debian_root.architecture(), of_tree(ROOT)
    with (BUILD / "lock").open("w") as lock:
        # Two runs at once would make the same directories.
        fcntl.flock(lock, fcntl.LOCK_EX)
        *layers, etcd = [made(stage) for stage in stages(machine, commit)]
        return (
            written(NAME, output, tag, machine, commit, layers),
            # All of meshd, too: what looks after an etcd is meshctl.
            written(ETCD, etcd_beside(output), tag, machine, commit, [*layers, etcd]),
        )


def written(name: str, output: Path, tag: str, machine: str, commit: str, layers: Sequence[Layer]) -> str:
    """The archive of image ``name`` is at ``output``; one line about it."""
    image = Image(
        name,
        tag,
        machine,
        python_parts.commit_time(ROOT),
        labels={
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.description": project()["description"],
            "org.opencontainers.image.version": project()["version"],
            "org.opencontainers.image.revision": commit,
            "org.opencontainers.image.licenses": project()["license"],
        },
        entrypoint=(f"/{python_parts.HOME}/bin/meshd",),
        environment={
            "PATH": f"/{python_parts.HOME}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        },
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    digest = archive.write(output, image, layers)
    sizes = ", ".join(f"{Path(each.path).parent.name} {each.size_bytes / 1e6:.1f}" for each in layers)
    return (
        f"image: {image.reference} {digest[:19]}, {output.stat().st_size / 1e6:.1f} MB ({sizes}) in {output}"
    )


def stages(machine: str, commit: str) -> list[Stage]:
    """The layers from the lowest up, each with all that its content depends on; the last is etcd's alone."""
    release = debian_root.suite()
    wanted = [str(each) for each in project()["dependencies"]]
    scripts = {str(name): str(place) for name, place in project()["scripts"].items()}
    files = python_parts.sources(ROOT)
    debian = stamps.key_of(ROOT, made_by(debian_root, layer), [release, machine])
    dependencies = stamps.key_of(ROOT, [*made_by(python_parts), CONSTRAINTS], [debian, *wanted])
    meshd = stamps.key_of(ROOT, files, [dependencies, commit, sys.version])

    etcd = stamps.key_of(ROOT, made_by(etcd_part, layer), [release, machine])

    def make_debian(directory: Path) -> Layer:
        bootstrapped = directory / "bootstrapped.tar"
        debian_root.bootstrap(release, bootstrapped, EPOCH)
        debian_root.unpack(bootstrapped, directory / "root")
        made = layer.from_tar(bootstrapped, directory / "layer.tar.gz", EPOCH, f"Debian {release}")
        bootstrapped.unlink()
        return made

    def make_dependencies(directory: Path) -> Layer:
        found = debian_root.described(BUILD / "debian" / "root")
        opt = directory / "opt"
        python_parts.environment(found, opt)
        python_parts.install(found, opt, wanted, machine, CONSTRAINTS)
        return layer.from_directory(directory, ["opt"], directory / "layer.tar.gz", EPOCH, "Python packages")

    def make_meshd(directory: Path) -> Layer:
        found = debian_root.described(BUILD / "debian" / "root")
        opt = directory / "opt"
        python_parts.launchers(opt, scripts)
        wheel = python_parts.wheel(ROOT, files, commit, directory / "scratch", EPOCH)
        python_parts.install(found, opt, [str(wheel)], machine)
        shutil.rmtree(directory / "scratch")
        return layer.from_directory(directory, ["opt"], directory / "layer.tar.gz", EPOCH, f"meshd {commit}")

    def make_etcd(directory: Path) -> Layer:
        etcd_part.fetch(release, directory)
        return layer.from_directory(
            directory, ["usr"], directory / "layer.tar.gz", EPOCH, f"Debian {release}, etcd"
        )

    return [
        Stage("debian", debian, make_debian),
        Stage("dependencies", dependencies, make_dependencies),
        Stage("meshd", meshd, make_meshd),
        Stage("etcd", etcd, make_etcd),
    ]


def made_by(*modules: ModuleType) -> list[Path]:
    """The files of ``modules``: what they make is another when they are."""
    return [Path(module.__file__ or "") for module in modules]


def made(stage: Stage) -> Layer:
    """The layer of ``stage``, as it is or made now; said with the time it took.

    Raises:
        ImageError: it could not be made; the last one is gone.
    """
    directory = BUILD / stage.name
    print(f"image: {stage.name} ... ", end="", flush=True)
    if stamps.is_current(directory / "stamp", stage.key):
        print("unchanged")
        return layer.load(directory / "layer.json")
    started = time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        done = stage.make(directory)
    except BaseException:
        print("failed")
        raise
    layer.save(done, directory / "layer.json")
    stamps.write(directory / "stamp", stage.key)
    print(f"{time.monotonic() - started:.1f} s")
    return done


def project() -> dict[str, Any]:
    """The table of pyproject.toml."""
    # Any: TOML is what it is; each reader names the key it wants.
    said: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return said


if __name__ == "__main__":
    sys.exit(main())
