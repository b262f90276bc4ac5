"""Takes the dataplane out of the kernel, without an agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.attach import detach
from meshd.dataplane.opening import link_pins, map_pins


@dataclass(frozen=True, slots=True)
class Removed:
    """Names of hooks that were taken off and of maps that were unpinned."""

    hooks: tuple[str, ...]
    maps: tuple[str, ...]


def clean_up(config: Config) -> Removed:
    """Hooks first, so that nothing reads a map that is going; may be repeated.

    Connections that were translated go on: nothing of ours is on their path.

    Raises:
        KernelError: a hook could not be taken off; what was removed before it stays removed.
    """
    hooks = detach(link_pins(config)) if link_pins(config).is_dir() else []
    directory = map_pins(config)
    pins = sorted(directory.iterdir()) if directory.is_dir() else []
    for pin in pins:
        pin.unlink()
    for each in (directory, link_pins(config)):
        _remove_if_empty(each)
    return Removed(tuple(hooks), tuple(pin.name for pin in pins))


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
