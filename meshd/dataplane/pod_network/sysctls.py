"""Sysctls of the node that pods need: what was there before is remembered on disk, and put back by `meshd cleanup`.

Remembered before anything is changed, and only once: a second start finds our own values and must not take them for the
node's. Reserved ports are a set that others add to as well, so ours are taken out of what is there then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from meshd.config import Config
from meshd.errors import JournalError, KernelError
from meshd.kernel.netns import Netns

log = structlog.get_logger(__name__)

BOOT = Path("/proc/sys/kernel/random/boot_id")
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"


def remembered_sysctls(config: Config) -> Path:
    """The file of this agent."""
    return config.state_dir / "sysctls.json"


class Remembered(msgspec.Struct, forbid_unknown_fields=True):
    """``before``, ``ours``: sysctl -> value. ``reserved``: the ports that only we reserve. ``boot``: since when all this is
    so; a reboot forgets sysctls, and what is found after it is the node's own."""

    before: dict[str, str] = {}
    ours: dict[str, str] = {}
    reserved: str = ""
    boot: str = ""


class Sysctls:
    """``path``: the file; ``boot``: what is another after a reboot. Every method runs on a worker thread."""

    def __init__(self, path: Path, host: Netns, boot: str = "") -> None:
        self._path = path
        self._host = host
        self._boot = boot or BOOT.read_text().strip()

    def set(self, name: str, value: str) -> None:
        """Sets one, having remembered what it was.

        Raises:
            KernelError: it cannot be set. JournalError: what it was cannot be remembered; it is as it was.
        """
        remembered = self._read()
        remembered.before.setdefault(name, self._host.read_sysctl(name))
        remembered.ours[name] = value
        self._write(remembered)
        self._host.write_sysctl(name, value)

    def reserve(self, first: int, last: int) -> None:
        """No socket of the node is given a port of ``first``..``last`` by the kernel.

        Raises:
            KernelError, JournalError: nothing was changed.
        """
        remembered = self._read()
        there = ports(self._host.read_sysctl(RESERVED_PORTS))
        # A port of an earlier range of ours is given up, if nobody else had reserved it before us.
        others = there - ports(remembered.reserved)
        wanted = set(range(first, last + 1))
        remembered.reserved = ranges(wanted - others)
        self._write(remembered)
        if there != others | wanted:
            self._host.write_sysctl(RESERVED_PORTS, ranges(others | wanted))
            log.info("ports reserved for masquerading", first=first, last=last)

    def put_back(self, *, reserved_only: bool = False) -> list[str]:
        """Everything is as it was, but for what somebody else has changed since; the names of those that were put back.

        ``reserved_only``: the ports only; for the rest there is another time.

        Raises:
            KernelError: one could not be; the others were.
        """
        remembered = self._read()
        put_back: list[str] = []
        failed: KernelError | None = None
        for name, before in remembered.before.items() if not reserved_only else ():
            try:
                if before != remembered.ours.get(name) == self._host.read_sysctl(name):
                    self._host.write_sysctl(name, before)
                    put_back.append(name)
            except (KernelError, OSError) as error:  # OSError: a device is gone, and its sysctls with it
                failed = error if isinstance(error, KernelError) else failed
        there = ports(self._host.read_sysctl(RESERVED_PORTS))
        if remembered.reserved and there & ports(remembered.reserved):
            self._host.write_sysctl(RESERVED_PORTS, ranges(there - ports(remembered.reserved)))
            put_back.append(RESERVED_PORTS)
        if failed is not None:
            raise failed
        remembered.reserved = ""
        if reserved_only and remembered.before:
            self._write(remembered)
        else:
            self._path.unlink(missing_ok=True)
        return put_back

    def _read(self) -> Remembered:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return Remembered(boot=self._boot)
        except (OSError, msgspec.MsgspecError) as error:
            raise JournalError(
                str(self._path), f"cannot be read; remove it to take the node as it is: {error}"
            ) from error
        return found if found.boot == self._boot else Remembered(boot=self._boot)

    def _write(self, remembered: Remembered) -> None:
        scratch = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                file.write(msgspec.json.encode(remembered) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._path)
        except OSError as error:
            raise JournalError(str(self._path), error.strerror or str(error)) from error


def ports(text: str) -> set[int]:
    """The ports of `ip_local_reserved_ports`: ``8080,9100-9110``."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def ranges(wanted: Iterable[int]) -> str:
    """The reverse of `ports`. Of none a newline: a write of nothing at all changes nothing."""
    parts: list[list[int]] = []
    for port in sorted(wanted):
        if parts and parts[-1][1] == port - 1:
            parts[-1][1] = port
        else:
            parts.append([port, port])
    return ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts) or "\n"
