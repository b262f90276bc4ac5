"""The hooks of the dataplane on a cgroup, as pinned links that outlive the agent.

Links are updated one by one, so for an instant some hooks are of the new build and some of the old. Reverse hooks and the
release hook come first: whatever a forward hook of either build records, somebody is there to read and remove it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from meshd.dataplane.pinned_link import attach_pinned, take_off
from meshd.kernel.links import AttachType, Link, attach_cgroup
from meshd.kernel.program import Program

# Program -> attach type, in the order of attaching.
HOOKS: dict[str, AttachType] = {
    "socket_lb_release": AttachType.CGROUP_SOCK_RELEASE,
    "socket_lb_getpeername4": AttachType.CGROUP_GETPEERNAME4,
    "socket_lb_getpeername6": AttachType.CGROUP_GETPEERNAME6,
    "socket_lb_recvmsg4": AttachType.CGROUP_RECVMSG4,
    "socket_lb_recvmsg6": AttachType.CGROUP_RECVMSG6,
    "socket_lb_sendmsg4": AttachType.CGROUP_SENDMSG4,
    "socket_lb_sendmsg6": AttachType.CGROUP_SENDMSG6,
    "socket_lb_answered": AttachType.CGROUP_SOCK_OPS,
    "socket_lb_connect4": AttachType.CGROUP_CONNECT4,
    "socket_lb_connect6": AttachType.CGROUP_CONNECT6,
}


def attach(programs: Mapping[str, Program], cgroup: Path, pins: Path) -> dict[str, Link]:
    """Every hook whose program is in ``programs``, attached to ``cgroup`` and pinned below ``pins``.

    A link that is there already gets the new program in place. One that is on another cgroup (or on one that is gone)
    is replaced: the new link is attached before the old one goes.

    Raises:
        KernelError: a hook could not be attached; the links made or updated before it stay, none was taken off.
    """
    pins.mkdir(parents=True, exist_ok=True)
    cgroup_id = cgroup.stat().st_ino
    return {
        name: _attach_one(programs[name], cgroup, cgroup_id, attach_type, pins / name)
        for name, attach_type in HOOKS.items()
        if name in programs
    }


def detach(pins: Path) -> list[str]:
    """Takes off every hook pinned below ``pins``, forward hooks first; the names of those that were on."""
    return [name for name in reversed(HOOKS) if take_off(pins / name)]


def attached(pins: Path, cgroup: Path) -> Iterator[tuple[str, bool]]:
    """Each hook, and whether it acts on ``cgroup`` now (somebody may have taken it off)."""
    cgroup_id = cgroup.stat().st_ino
    for name in HOOKS:
        link = Link.open_pinned(pins / name)
        if link is None:
            yield name, False
            continue
        yield name, link.info().cgroup_id == cgroup_id
        link.close()


def _attach_one(program: Program, cgroup: Path, cgroup_id: int, attach_type: AttachType, pin: Path) -> Link:
    return attach_pinned(
        program,
        pin,
        lambda info: info.cgroup_id == cgroup_id,
        lambda: attach_cgroup(program.fd, cgroup, attach_type, pin.name),
    )
