"""Every exception of the agent, as one tree, so that whoever handles one can see what else there is.

MeshError
├── ConfigError            the configuration cannot be used; nothing was started
├── KernelError            an operation the kernel refused: operation, object, errno
│   ├── VerifierError      a program the verifier refused: program, last lines of the log, whole log
│   ├── MapFull            a map without room for a whole change: map, needed, free; nothing was written
│   └── FeatureMissing     the kernel lacks something; says what and what it costs
├── LayoutError            a type of the BPF object and what Python expects of it do not fit: type, reason
├── InvalidObject          one object of a source cannot be used: object, field, reason
├── OwnedByOther           an object belongs to another source: object, owner
├── InvalidRequest         a request with several such objects or fields; nothing of it was done
├── UnknownObject          no source names an object that a caller asked for: object
├── RowsFailed             rows a caller waited for could not be written: key -> error
├── NotSettled             a change is in force, but the caller's time ended before the kernel held it: revision
├── JournalError           a journal on disk could not be written; the change it was for was not made: path, reason
├── IntentNotKept          what somebody said is in force, and could not be written to disk: path, reason
├── NoClusterStore         something is said to a whole cluster, and no etcd of it is configured: what
├── ClusterNotTold         the cluster's etcd did not take it: reason
├── FlowsWouldEnd          a clean-up would end flows that go on: how many masqueraded, translated, tunnelled
├── AddressesExhausted     no address left for a pod: ranges, usable, in use, cooling, seconds until the next is free
├── AddressRefused         an address that a runtime asked for is not to be had: address, reason
├── CniFilesError          a file that a container runtime reads could not be read or written: path, reason
├── RoundTripFailed        a packet did not come back from a pod made for the test: step, reason
├── NotAllowed             a caller's role does not permit an operation: caller, operation, role needed
├── ApiServerError         an API server of Kubernetes refused a request: what was asked, HTTP status, reason
├── ApiServerUnreachable   no endpoint of an API server answered: endpoint -> why
├── ListAgain              a watch cannot be resumed or continued without a gap: reason
└── ReaderTooSlow          a reader took nothing for so long that it was cut off: seconds
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


class MeshError(Exception):
    """Base of everything meshd raises on purpose."""


class ConfigError(MeshError):
    """The configuration (or the machine it meets) cannot be used; the sentence says what to do."""


class KernelError(MeshError):
    """The kernel refused ``operation`` on ``object_name``; ``errno`` is positive, 0 where there is none."""

    def __init__(self, operation: str, object_name: str, errno: int, detail: str = "") -> None:
        self.operation = operation
        self.object_name = object_name
        self.errno = errno
        self.detail = detail
        reason = os.strerror(errno) if errno else "failed"
        super().__init__(f"{operation} {object_name}: {reason}" + (f" ({detail})" if detail else ""))


class VerifierError(KernelError):
    """The verifier refused a program. ``str()`` shows the last lines, ``log`` holds all of it."""

    def __init__(self, program: str, errno: int, log: str) -> None:
        self.program = program
        self.log = log
        tail = "\n".join(log.rstrip().splitlines()[-12:])
        super().__init__("load program", program, errno, detail=f"verifier log ends:\n{tail}")


class MapFull(KernelError):
    """``map_name`` has no room for a whole change; it was refused before anything was written."""

    def __init__(self, map_name: str, needed: int, free: int) -> None:
        self.map_name = map_name
        self.needed = needed
        self.free = free
        super().__init__(
            "write rows to",
            f"map {map_name}",
            28,
            detail=f"{needed} entries needed, {free} free; nothing was written",
        )


class FeatureMissing(KernelError):
    """This kernel has no ``feature``; ``cost`` says what users lose."""

    def __init__(self, feature: str, cost: str) -> None:
        self.feature = feature
        self.cost = cost
        super().__init__("use kernel feature", feature, 0, detail=cost)


class LayoutError(MeshError):
    """The C type ``type_name`` and the Python side that reads or writes it do not fit; nothing was converted."""

    def __init__(self, type_name: str, reason: str) -> None:
        self.type_name = type_name
        self.reason = reason
        super().__init__(f"{type_name}: {reason}")


class InvalidObject(MeshError):
    """``object_name`` cannot be used because of ``field``; everything else stays in force."""

    def __init__(self, object_name: str, field: str, reason: str) -> None:
        self.object_name = object_name
        self.field = field
        self.reason = reason
        super().__init__(f"{object_name}: {field}: {reason}")


class OwnedByOther(MeshError):
    """``object_name`` belongs to source ``owner``; only that source may change it."""

    def __init__(self, object_name: str, owner: str) -> None:
        self.object_name = object_name
        self.owner = owner
        super().__init__(f"{object_name} is owned by source {owner}; change it there")


class InvalidRequest(MeshError):
    """A caller's request is wrong in each of ``errors`` (at least one); nothing of it was done."""

    def __init__(self, errors: Sequence[InvalidObject]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in self.errors))


class UnknownObject(MeshError):
    """No source names ``object_name``."""

    def __init__(self, object_name: str) -> None:
        self.object_name = object_name
        super().__init__(f"{object_name} does not exist")


class RowsFailed(MeshError):
    """Some rows that the caller waited for were not written; they are retried, the rest is in force."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        self.errors = dict(errors)
        first = next(iter(self.errors.items()))
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        super().__init__(f"{first[0]}: {first[1]}{more}")


class NotSettled(MeshError):
    """``object_name`` was accepted at ``revision``; the kernel did not hold it yet when the caller's time ended."""

    def __init__(self, object_name: str, revision: int) -> None:
        self.object_name = object_name
        self.revision = revision
        super().__init__(
            f"{object_name} is accepted at revision {revision} and on disk, but not in the kernel yet; it is being worked on"
        )


class JournalError(MeshError):
    """The journal at ``path`` could not be written; the change was not made, what was there before stands."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"journal {path}: {reason}; nothing was changed")


class IntentNotKept(MeshError):
    """What somebody said is in force (``on``), and could not be written to ``path``: it ends with the agent."""

    def __init__(self, path: str, reason: str, *, on: bool) -> None:
        self.path = path
        self.reason = reason
        self.on = on
        super().__init__(
            f"the short circuit is {'on' if on else 'off'} now, but that could not be written to {path}: {reason}; with the "
            "next start of the agent, what was said before holds again"
        )


class NoClusterStore(MeshError):
    """``what`` is to be said to a whole cluster, which has no etcd that this agent knows. Nothing was changed."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} of the cluster: no etcd is configured (clustermesh.etcd), so there is nowhere to say it to all nodes; "
            "nothing was changed. Say it to each of them"
        )


class ClusterNotTold(MeshError):
    """The cluster's etcd did not take what was to be said to all nodes. If only its answer was lost, they hear it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the cluster's etcd did not confirm it: {reason}; say it again")


class DrillGoesOn(MeshError):
    """Only one drill goes on in a cluster at a time; that one does, and nothing was changed."""

    def __init__(self, service: str, lose: str, left_s: float) -> None:
        self.service = service
        self.lose = lose
        self.left_s = left_s
        super().__init__(
            f"another drill goes on: service {service} without {lose}, for {left_s:.0f} s more; nothing was changed"
        )


class BytesWouldBeLost(MeshError):
    """Sockets would be taken out of the short circuit with bytes that nobody has read. They were left in; new bytes go on
    TCP."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        super().__init__(
            f"bytes of {connections} short-circuited connections wait for readers that do not read; their maps were not "
            "removed. Once they are read, or closed, try again; with --drop-translated they are lost"
        )


class FlowsWouldEnd(MeshError):
    """Removing the programs would end flows that only they carry. Nothing was changed."""

    def __init__(self, masqueraded: int, translated: int, tunnelled: int) -> None:
        self.masqueraded = masqueraded
        self.translated = translated
        self.tunnelled = tunnelled
        super().__init__(
            f"{masqueraded} masqueraded flows, {translated} to services and {tunnelled} through the tunnel would end with "
            "the programs; nothing was removed. With --drop-translated they end"
        )


class AddressesExhausted(MeshError):
    """None of ``ranges`` has an address left; ``wait_s`` None: none is on its way back either. Nothing was changed."""

    def __init__(
        self, ranges: Sequence[str], usable: int, in_use: int, cooling: int, wait_s: float | None
    ) -> None:
        self.ranges = tuple(ranges)
        self.usable = usable
        self.in_use = in_use
        self.cooling = cooling
        self.wait_s = wait_s
        soon = "" if wait_s is None else f", {cooling} just released (the next is free in {wait_s:.0f} s)"
        super().__init__(f"no address left in {', '.join(ranges)}: {usable} usable, {in_use} in use{soon}")


class AddressRefused(MeshError):
    """``address``, which was asked for by name, is not given; nothing was changed."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(f"address {address} cannot be given: {reason}")


class CniFilesError(MeshError):
    """A file at ``path``, of those that make a container runtime use meshd, could not be read or written."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class RoundTripFailed(MeshError):
    """``step`` of making a pod, sending it a packet and taking it away again failed; nothing of the pod stays."""

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(f"no packet makes the round trip through a new pod: {step}: {reason}")


class NotAllowed(MeshError):
    """``caller`` may not call ``operation``; ``needed`` is the role that may."""

    def __init__(self, caller: str, operation: str, needed: str) -> None:
        self.caller = caller
        self.operation = operation
        self.needed = needed
        super().__init__(f"{caller} may not call {operation}: it needs the role {needed}")


class ApiServerError(MeshError):
    """An API server answered ``what`` (``get services default/web``) with ``status``, an HTTP status.

    ``reason`` is Kubernetes' word for it (NotFound, Conflict, Forbidden, Expired; empty: none was given), ``message`` its
    sentence. ``retry_after_s``: how long it wants to be left alone, None: it did not say.
    """

    def __init__(
        self, what: str, status: int, reason: str, message: str, retry_after_s: float | None = None
    ) -> None:
        self.what = what
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        said = " ".join(part for part in (str(status), reason) if part)
        super().__init__(f"{what}: {said}" + (f": {message}" if message else ""))


class ApiServerUnreachable(MeshError):
    """Nobody answered ``what``; ``errors``: endpoint -> why. A change that was asked for may have been made."""

    def __init__(self, what: str, errors: Mapping[str, str]) -> None:
        self.what = what
        self.errors = dict(errors)
        tried = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self.errors.items())
        super().__init__(f"{what}: no API server answers ({tried})")


class ListAgain(MeshError):
    """A watch would have a gap; its reader begins from nothing and replaces what it holds."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}; watch again from nothing and replace what you hold")


class ReaderTooSlow(MeshError):
    """A reader of a stream took nothing for ``seconds``; the stream ended, nothing was buffered for it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"nothing was read for {seconds:g} s; resume from the last revision received")
