"""Programs of the pod network as tcx links, pinned: for devices that are few and stay, and for those of other plugins.

Attaching one takes 16 ms (kernel 6.18), too long for every pod. But a link stands beside whatever qdiscs a device has, which
a clsact filter does not: the bandwidth plugin adds an `ingress` qdisc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from meshd.dataplane.pinned_link import attach_pinned, put_before, take_off
from meshd.dataplane.pod_network.places import Place
from meshd.kernel.links import AttachType, Link
from meshd.kernel.program import Program


def attach(index: int, place: Place, name: str, program: Program, pins: Path) -> None:
    """The program is on the device; a link that is there gets it in place.

    Raises:
        KernelError: it is as it was. EINVAL: the kernel has no tcx.
    """
    pins.mkdir(parents=True, exist_ok=True)
    link = attach_pinned(
        program,
        pins / pin_name(name, index),
        lambda info: info.ifindex == index,
        lambda: _made(index, place, name, program),
    )
    link.close()


def attach_before(index: int, place: Place, name: str, program: Program, pins: Path) -> Link | None:
    """The program is on the device before all others; whoever was at its pin goes on behind it for as long as that link is
    held, which is the answer.

    Raises:
        KernelError: it is as it was.
    """
    pins.mkdir(parents=True, exist_ok=True)
    return put_before(pins / pin_name(name, index), lambda: _made(index, place, name, program, first=True))


def attached(pins: Path) -> dict[tuple[int, str], int]:
    """(ifindex, program's name) -> id of the program that is there, of all that are pinned; 0: its device is gone."""
    found = {}
    for index, name, pin in _pinned(pins):
        link = Link.open_pinned(pin)
        if link is not None:
            info = link.info()
            found[index, name] = info.program_id if info.ifindex == index else 0
            link.close()
    return found


def forget(index: int, name: str, pins: Path) -> None:
    """Takes a program off; absent is no error."""
    take_off(pins / pin_name(name, index))


def detach_all(pins: Path, order: Mapping[str, int]) -> list[str]:
    """Takes all off that are pinned, by the place of their names in ``order``; the names of the pins."""
    pinned = sorted(_pinned(pins), key=lambda each: order.get(each[1], 0))
    return [pin.name for _, _, pin in pinned if take_off(pin)]


def _made(index: int, place: Place, name: str, program: Program, *, first: bool = False) -> Link:
    direction = AttachType.TCX_INGRESS if name == place.ingress else AttachType.TCX_EGRESS
    return Link.create(program.fd, index, direction, f"{name} on link {index}", first=first)


def pin_name(name: str, index: int) -> str:
    """The pin of a program on the device ``index``."""
    return f"{name}_{index}"


def _pinned(pins: Path) -> Iterator[tuple[int, str, Path]]:
    for pin in sorted(pins.glob("pod_network_*")) if pins.is_dir() else ():
        name, _, index = pin.name.rpartition("_")
        if index.isdecimal():
            yield int(index), name, pin
