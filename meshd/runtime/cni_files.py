"""The two files that make a container runtime use meshd, and those of others that stand in the way.

A runtime takes the configuration whose name sorts first. So ours sorts before all that are usual, the one in force before
stays where it is, and taking ours away gives back to it. Only what would sort before ours is put aside.

Whatever is written appears whole or not at all, and the order is such that after a crash between any two steps either the
configuration from before or ours is in force, with all it needs: plugin, conflist, aside; and back the other way.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meshd
from meshd.errors import CniFilesError

PLUGIN = "meshd-cni"
CONFLIST = "00-meshd.conflist"
# What libcni looks at; anything else in the directory is no configuration.
SUFFIXES = (".conf", ".conflist", ".json")
ASIDE = ".meshd-aside"
# Plugins of others that come after ours where they are installed: host ports of containers.
AFTER: tuple[dict[str, Any], ...] = ({"type": "portmap", "capabilities": {"portMappings": True}},)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the runtime looks for configurations and for plugins."""

    conf_dir: Path
    bin_dir: Path

    @property
    def conflist(self) -> Path:
        return self.conf_dir / CONFLIST

    @property
    def plugin(self) -> Path:
        return self.bin_dir / PLUGIN


def install(places: Places, plugin: bytes, conflist: bytes) -> list[str]:
    """Puts both files in place; what was done, as phrases. May be repeated.

    Raises:
        CniFilesError: a file cannot be written; what was in force is.
    """
    done: list[str] = []
    try:
        places.bin_dir.mkdir(parents=True, exist_ok=True)
        places.conf_dir.mkdir(parents=True, exist_ok=True)
        for path, content, mode in ((places.plugin, plugin, 0o755), (places.conflist, conflist, 0o600)):
            if not (path.exists() and path.read_bytes() == content):
                write_whole(path, content, mode)
                done.append(f"wrote {path}")
        for path in configurations(places.conf_dir):
            if path.name < CONFLIST:
                path.rename(path.with_name(path.name + ASIDE))
                done.append(f"put {path} aside")
        # containerd 1.6 may pass over what appears by a rename; a change of the file itself it sees.
        places.conflist.touch()
        sync(places.conf_dir)
    except OSError as error:
        raise CniFilesError(str(error.filename), f"{error.strerror}; what was in force is") from error
    return done


def packaged_plugin() -> bytes:
    """The shim for this machine.

    Raises:
        CniFilesError: the package has none.
    """
    path = Path(meshd.__file__).parent / "ctl" / f"{PLUGIN}.{platform.machine()}"
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"this package has no CNI plugin for {platform.machine()}"
        raise CniFilesError(str(path), reason) from error


def uninstall(places: Places) -> list[str]:
    """Takes both files away and gives back to what was in force before; what was done. May be repeated.

    Raises:
        CniFilesError: a file cannot be changed; what is in force is whole.
    """
    done: list[str] = []
    try:
        for path in sorted(places.conf_dir.glob("*" + ASIDE)):
            path.rename(path.with_name(path.name.removesuffix(ASIDE)))
            done.append(f"gave back {path.name.removesuffix(ASIDE)}")
        for path in (places.conflist, places.plugin):
            if path.exists():
                path.unlink()
                done.append(f"removed {path}")
        if places.conf_dir.is_dir():
            sync(places.conf_dir)
    except OSError as error:
        raise CniFilesError(str(error.filename), f"{error.strerror}; run it again") from error
    return done


def configurations(conf_dir: Path) -> list[Path]:
    """The runtime's configurations, the one in force first."""
    if not conf_dir.is_dir():
        return []
    found = [path for path in conf_dir.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    return sorted(found, key=lambda path: path.name)


def theirs(conf_dir: Path) -> list[Path]:
    """The configurations of others, also those put aside, in the order in which they would be in force."""
    found = [path for path in configurations(conf_dir) if path.name != CONFLIST]
    return sorted([*found, *conf_dir.glob("*" + ASIDE)], key=lambda path: path.name)


def conflist(
    version: str,
    socket: Path,
    before: Sequence[dict[str, Any]] = (),
    after: Sequence[dict[str, Any]] = (),
    *,
    name: str = "meshd",
) -> bytes:
    """Our conflist, as JSON. ``before``: plugins that come first, which meshd is chained after; ``after``: that follow.

    Of a bandwidth limit meshd only wants to know: it keeps such a pod's packets where the plugin that limits them sees them.
    """
    # Any: what other plugins are configured with is theirs.
    capabilities = {"ips": True, "bandwidth": True}
    ours = {"type": PLUGIN, "socket": str(socket), "capabilities": capabilities}
    said = {"cniVersion": version, "name": name, "plugins": [*before, ours, *after]}
    return json.dumps(said, indent=2).encode() + b"\n"


def plugins_of(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Name and plugins of a configuration, without meshd's own.

    Raises:
        CniFilesError: it cannot be read.
    """
    try:
        said = json.loads(path.read_text())
        plugins = said.get("plugins", [said])
        return str(said["name"]), [plugin for plugin in plugins if plugin["type"] != PLUGIN]
    except OSError as error:
        raise CniFilesError(str(path), error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CniFilesError(str(path), f"it is no CNI configuration: {error}") from error


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """``content`` is at ``path``, on disk, or what was there before is.

    Raises:
        OSError: it could not be written.
    """
    # A name that no runtime takes for a configuration or a plugin; what a crash left of it is written over.
    scratch = path.with_name(f".{path.name}.meshd-new")
    try:
        file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync(path.parent)


def sync(directory: Path) -> None:
    """What was renamed in ``directory`` is on disk."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
