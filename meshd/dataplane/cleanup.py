"""Takes the dataplane out of the kernel, without an agent."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.attach import detach
from meshd.dataplane.features import FEATURES, POD_NETWORK, SHORT_CIRCUIT, SOCKET_LB
from meshd.dataplane.opening import link_pins, map_pins
from meshd.dataplane.pod_network import removal
from meshd.dataplane.short_circuit import removal as short_circuit

WORDS = tuple(each.word for each in FEATURES)


@dataclass(frozen=True, slots=True)
class Removed:
    """Names of hooks that were taken off, of what the pod network had on devices, and of maps that were unpinned."""

    hooks: tuple[str, ...]
    devices: tuple[str, ...]
    maps: tuple[str, ...]


def clean_up(config: Config, features: Collection[str] = WORDS, *, drop_translated: bool = False) -> Removed:
    """Takes ``features`` out, programs first, so that nothing reads a map that is going; may be repeated.

    Programs of the pod network translate services too, so socket_lb's maps stay as long as those are there.

    Connections that were translated at their socket go on: nothing of ours is on their path. Those that are translated
    packet by packet, or go through the tunnel, would end: only with ``drop_translated``.

    Raises:
        FlowsWouldEnd: there are such flows; nothing was removed.
        BytesWouldBeLost: readers of short-circuited connections do not read; programs are off, all maps are there.
        KernelError, JournalError: a hook could not be taken off; what was removed before it stays removed.
    """
    devices: list[str] = []
    hooks: list[str] = []
    if POD_NETWORK.word in features:
        if not drop_translated:
            removal.require_no_translated(config)
        devices = removal.take_off(config)
    if SHORT_CIRCUIT.word in features and short_circuit.is_there(config):
        short_circuit.empty(config, drop=drop_translated)
    if SOCKET_LB.word in features and link_pins(config).is_dir():
        hooks = detach(link_pins(config))
    directory = map_pins(config)
    pins = sorted(_unused(directory, features)) if directory.is_dir() else []
    for pin in pins:
        pin.unlink()
    for each in (directory, link_pins(config)):
        _remove_if_empty(each)
    return Removed(tuple(hooks), tuple(devices), tuple(pin.name for pin in pins))


def _unused(directory: Path, features: Collection[str]) -> Iterator[Path]:
    """Pins of maps that no feature reads which is not in ``features``; of another build's, too, when all go."""
    staying: set[str] = set()
    if POD_NETWORK.word not in features and any(directory.glob("pods_*")):
        staying |= {*POD_NETWORK.maps, *POD_NETWORK.kernel_maps, *SOCKET_LB.maps, *SOCKET_LB.kernel_maps}
    if SHORT_CIRCUIT.word not in features or staying:
        staying |= {*SHORT_CIRCUIT.maps, *SHORT_CIRCUIT.kernel_maps}
    if SOCKET_LB.word not in features:
        staying |= {*SOCKET_LB.maps, *SOCKET_LB.kernel_maps}
    for pin in directory.iterdir():
        # A pin's name is its map's, and a hash of the layout behind it (kernel/pins.py).
        if pin.name.rpartition("_")[0] not in staying:
            yield pin


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
