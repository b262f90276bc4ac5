"""What decides about live sockets, put in force: the program in the slot, the switch, and the epoch.

Sockets that are admitted keep the stub that was attached when they were. So a build changes nothing on a socket: it fills
the slot that the stub calls.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.rows import Layouts
from meshd.kernel._libbpf import lib
from meshd.kernel.maps import Map
from meshd.kernel.program import Program
from meshd.kernel.result import checked


class Switchboard:
    """``maps`` and ``programs``: those of the object that is loaded."""

    def __init__(self, made: Layouts, maps: Mapping[str, Map], programs: Mapping[str, Program]) -> None:
        self._u32 = made.u32
        self._maps = maps
        self._programs = programs

    def connect(self) -> None:
        """This build's program decides about each message of each admitted socket from now on.

        Raises:
            KernelError: refused; what decided before does still.
        """
        decide = self._u32.encode(self._programs[rows.DECIDE].fd)
        self._maps[rows.SLOT].update(self._u32.encode(0), decide)
        sockets = self._maps[rows.SOCKETS]
        attached = lib.bpf_prog_attach(self._programs[rows.STUB].fd, sockets.fd, lib.BPF_SK_MSG_VERDICT, 0)
        checked(attached, "attach", f"program {rows.STUB} to map {rows.SOCKETS}")
        if not self.epoch:
            self.raise_epoch()

    @property
    def is_on(self) -> bool:
        """Whether messages may be handed over."""
        return bool(self._read(rows.SWITCH))

    def turn(self, *, on: bool) -> None:
        """Acts on the next message of every connection. Turned on, connections that were refused are looked at again."""
        if on and not self.is_on:
            self.raise_epoch()
        self._write(rows.SWITCH, int(on))

    @property
    def epoch(self) -> int:
        """The number under which decisions hold; 0: there was none yet."""
        return self._read(rows.EPOCH)

    def raise_epoch(self) -> None:
        """Every connection is decided about anew: the admitted with their next message, the refused with a packet."""
        self._programs[rows.RAISE].test_run()

    def _read(self, name: str) -> int:
        return self._u32.decode(self._maps[name].lookup(self._u32.encode(0)) or bytes(4))

    def _write(self, name: str, value: int) -> None:
        self._maps[name].update(self._u32.encode(0), self._u32.encode(value))
