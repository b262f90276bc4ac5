"""A loaded program, and how the kernel runs it without a hook."""

from __future__ import annotations

import os
from dataclasses import dataclass

from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.result import checked

_PACKET_ROOM = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program; ``tag`` is a hash over its instructions."""

    program_id: int
    program_type: int
    tag: str
    verified_instructions: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """The outcome of one test run: the program's return value, packet and context as it left them."""

    retval: int
    data: bytes
    context: bytes
    duration_ns: int


class Program:
    """A program in the kernel, held by ``fd``; ``attach_type`` is what its section asks for (0 also where it
    asks for none)."""

    def __init__(self, fd: int, name: str, attach_type: int) -> None:
        """Takes ownership of ``fd``."""
        self.fd, self.name, self.attach_type = fd, name, attach_type

    def __repr__(self) -> str:
        return f"Program({self.name!r}, fd={self.fd})"

    def info(self) -> ProgramInfo:
        """Id, type and tag; equal tags mean equal instructions."""
        raw = ffi.new("struct meshd_prog_info *")
        checked(lib.meshd_prog_info(self.fd, raw), "inspect", f"program {self.name}")
        return ProgramInfo(raw.id, raw.type, bytes(ffi.buffer(raw.tag)).hex(), raw.verified_insns)

    def test_run(self, data: bytes = b"", context: bytes = b"", repeat: int = 0) -> TestRun:
        """Runs the program in the kernel on a packet or a context.

        Possible for tc, xdp, cgroup_skb, sk_lookup, socket filter and syscall programs. ``repeat`` must stay
        0 for syscall programs; ``duration_ns`` is the mean of the repetitions.

        Raises:
            KernelError: errno 524 for a program type that cannot be run so.
        """
        packet, in_out = ffi.new("char[]", _PACKET_ROOM), ffi.new("char[]", context or b"\0")
        source = ffi.from_buffer(data) if data else ffi.NULL
        run = ffi.new(
            "struct meshd_test_run *", {"data_in": source, "data_size_in": len(data), "repeat": repeat}
        )
        if data:
            run.data_out, run.data_size_out = packet, _PACKET_ROOM
        if context:
            run.ctx, run.ctx_size = in_out, len(context)
        checked(lib.meshd_prog_test_run(self.fd, run), "test-run", f"program {self.name}")
        left = bytes(ffi.buffer(packet, run.data_size_out)) if data else b""
        return TestRun(run.retval, left, bytes(ffi.buffer(in_out, len(context))), run.duration_ns)

    def close(self) -> None:
        """Gives the descriptor back; an attached program lives on in its link. May be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
