"""Watches for splice() and tee() on sockets, the same by io_uring, and its sends without a copy, as long as a workload is
selected: tracepoints slow every system call of the machine, also those of workloads that nobody selected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from meshd.dataplane.pinned_link import put_before
from meshd.dataplane.short_circuit import rows
from meshd.errors import KernelError
from meshd.kernel import tracepoint
from meshd.kernel.program import Program

log = structlog.get_logger(__name__)

# Program -> category and name of its tracepoint.
TRACEPOINTS = {
    rows.SPLICE: ("syscalls", "sys_enter_splice"),
    rows.TEE: ("syscalls", "sys_enter_tee"),
    rows.REQUEST: ("io_uring", "io_uring_submit_req"),
}
# What a kernel may be built without: then there is nothing to watch.
_OPTIONAL = "io_uring"
LOOK_S = 1.0


class Splices:
    """``pins``: where links are pinned, so that they outlive the agent as the sockets do. ``selected``: how many addresses
    are. ``refusal``: why nobody watches though somebody is selected; empty: somebody does."""

    def __init__(self, programs: Mapping[str, Program], pins: Path, selected: Callable[[], int]) -> None:
        self._programs = programs
        self._pins = pins
        self._selected = selected
        self.refusal = ""
        self._wanted = TRACEPOINTS
        # Whether those that are there are of this build.
        self._replaced = False

    @property
    def is_on(self) -> bool:
        """Whether all programs are there; an earlier agent may have left them, or somebody taken them off."""
        return all((self._pins / name).exists() for name in self._wanted)

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled. ``changed`` is called when `refusal` has."""
        while True:
            before = self.refusal
            await asyncio.to_thread(self.look)
            if self.refusal != before:
                await changed()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Puts the programs on or takes them off, as somebody is selected or nobody."""
        try:
            if self._selected() == 0:
                take_off_all(self._pins)
                self._replaced, self.refusal = False, ""
            elif not (self.is_on and self._replaced):
                self.put_on()
        except (KernelError, OSError) as error:
            if self.refusal != str(error):
                log.error("nobody watches for splice()", reason=str(error))
            self.refusal = str(error)

    def put_on(self) -> None:
        """Programs that are there are replaced, the new ones first.

        Raises:
            KernelError, OSError: the kernel has no such tracepoints, or they may not be used.
        """
        self._pins.mkdir(parents=True, exist_ok=True)
        self._wanted = wanted()
        for name, (category, event) in self._wanted.items():
            if self._replaced and (self._pins / name).exists():
                continue
            program = self._programs[name]
            make = partial(tracepoint.attach, program, category, event)
            # The kernel replaces no program of such a link, and detaches none: the old one goes with its last holder.
            former = put_before(self._pins / name, make)
            if former is not None:
                former.close()
        self._replaced, self.refusal = True, ""


def wanted() -> dict[str, tuple[str, str]]:
    """Program -> tracepoint, of those that this kernel needs.

    Raises:
        KernelError: it has no tracefs, or it may not be used.
    """
    has_rings = tracepoint.has_category(_OPTIONAL)
    return {name: at for name, at in TRACEPOINTS.items() if has_rings or at[0] != _OPTIONAL}


def take_off_all(pins: Path) -> list[str]:
    """The names of the programs that were on."""
    found = [name for name in TRACEPOINTS if (pins / name).exists()]
    for name in found:
        (pins / name).unlink()
    return found
