"""A number in the kernel that is another after each change of what programs look up: what they remember of their lookups is
good for one number only (bpf/lib/kept_way.h)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable

import structlog

from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.kernel.program import Program

log = structlog.get_logger(__name__)

_ONLY = bytes(4)
_BITS = 32


class Generation:
    """``number``: a map of one __u32; None: the object has none. ``of``: the maps whose rows programs look up. ``program``
    adds one where others in the kernel do, too; None: nobody else does."""

    def __init__(self, number: Map | None, of: Collection[str] = (), program: Program | None = None) -> None:
        self._number = number
        self._program = program
        self._of = frozenset(of)

    def changed(self, maps: Iterable[str]) -> None:
        """Rows of these maps were written or deleted. Called when that is done, and also when it was done in part."""
        if not self._of.isdisjoint(maps):
            self.advance()

    def advance(self) -> None:
        """What was remembered is looked up again. Read from the kernel, so that a new agent does not repeat a number.

        A refusal is logged: programs remember for a second only, whatever the number is.
        """
        if self._number is None:
            return
        try:
            if self._program is not None:
                self._program.test_run()
                return
            now = int.from_bytes(self._number.lookup(_ONLY) or b"", sys.byteorder)
            self._number.update(_ONLY, ((now + 1) % (1 << _BITS)).to_bytes(_BITS // 8, sys.byteorder))
        except KernelError as error:
            log.warning("generation not advanced", reason=str(error))
