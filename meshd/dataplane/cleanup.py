"""Takes the dataplane out of the kernel, without an agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.attach import detach
from meshd.dataplane.opening import link_pins, map_pins
from meshd.dataplane.pod_network import removal


@dataclass(frozen=True, slots=True)
class Removed:
    """Names of hooks that were taken off, of what the pod network had on devices, and of maps that were unpinned."""

    hooks: tuple[str, ...]
    devices: tuple[str, ...]
    maps: tuple[str, ...]


def clean_up(config: Config, *, drop_translated: bool = False) -> Removed:
    """Hooks first, so that nothing reads a map that is going; may be repeated.

    Connections that were translated at their socket go on: nothing of ours is on their path. Those that are translated
    packet by packet, or go through the tunnel, would end: only with ``drop_translated``.

    Raises:
        FlowsWouldEnd: there are such flows; nothing was removed.
        KernelError, JournalError: a hook could not be taken off; what was removed before it stays removed.
    """
    if not drop_translated:
        removal.require_no_translated(config)
    devices = removal.take_off(config)
    hooks = detach(link_pins(config)) if link_pins(config).is_dir() else []
    directory = map_pins(config)
    pins = sorted(directory.iterdir()) if directory.is_dir() else []
    for pin in pins:
        pin.unlink()
    for each in (directory, link_pins(config)):
        _remove_if_empty(each)
    return Removed(tuple(hooks), tuple(devices), tuple(pin.name for pin in pins))


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
