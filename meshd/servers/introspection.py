"""What servers show of the parts they may not import: values of our own, and the calls that give them.

The agent, which knows every part, makes one :class:`Introspection` from them. All calls are made on the event loop and
return at once; what is large is an iterator that is read in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from meshd.model import Node, ServiceName
from meshd.model.failover_history import Failover
from meshd.model.failover_plan import FailoverPlan, Loss
from meshd.servers.drill import Drilling
from meshd.servers.short_circuit import ShortCircuit


@dataclass(frozen=True, slots=True)
class Build:
    """What runs here. ``commit`` empty: not known. ``started_s`` is Unix time."""

    version: str
    commit: str
    kernel: str
    python: str
    started_s: float


@dataclass(frozen=True, slots=True)
class Feature:
    """Something the kernel has or has not, and what its absence costs."""

    name: str
    present: bool
    needed_by: str
    reason: str = ""
    cost: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A BPF program of ours. ``left_out`` says why it is not loaded, ``attached_to`` where it acts."""

    name: str
    id: int = 0
    attached_to: str = ""
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class KernelMap:
    """A map as the kernel holds it. ``entries`` None: not countable (per-CPU counters, ring buffers)."""

    name: str
    kind: str
    key_bytes: int
    value_bytes: int
    capacity: int
    entries: int | None
    memory_bytes: int
    pin: str = ""


@dataclass(frozen=True, slots=True)
class MapRow:
    """One entry of a map, by the field names of its C structs; values are int, str, bytes, bool, or nestings of them."""

    key: Mapping[str, object]
    value: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a figure."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """Something the dataplane counts (``counter``: since the map was made; else ``gauge``).

    ``name`` without ``meshd_``, with the unit at its end where it has one, without ``_total``: ``sockets_destroyed``.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Packets dropped for one reason in one direction, as seen from the pods: ``from_pod`` or ``to_pod``."""

    reason: str
    direction: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Peer:
    """The connection to a remote cluster. None: not known (yet).

    ``stale_services``: those that nobody vouches for; of these, ``held_services`` were removed with most of its backends.
    ``pin_origin``: who said what it may be (0: any id) and name (none: anything).
    """

    cluster: str
    endpoints: tuple[str, ...] = ()
    services: int = 0
    lag_s: float | None = None
    heartbeat_age_s: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    last_error: str = ""
    stale_services: int = 0
    held_services: int = 0
    held_backends: int = 0
    held_since_s: float | None = None
    pin_origin: Literal["stated", "learned", "none yet"] = "none yet"
    pin_cluster_id: int = 0
    pin_networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """A service that stood although its remote cluster did not name it, since ``since_s`` (Unix time)."""

    service: ServiceName
    backends: int
    held: bool
    since_s: float


@dataclass(frozen=True, slots=True)
class Reconcile:
    """``lag_s``: for how long the oldest change has been waiting for the kernel; 0: none waits. The rest since the start."""

    lag_s: float = 0.0
    failures: int = 0
    rows_repaired: int = 0


class Routing(NamedTuple):
    """How the pods of a node are reached from here. ``via``: native or vxlan; empty: not, and ``reason`` says why.

    ``reachability``: up, down or unknown, as its probes are answered, with ``rtt_s`` and ``loss`` (0..1) of late; empty: it
    is not probed.
    """

    via: str = ""
    reason: str = ""
    reachability: str = ""
    rtt_s: float = 0.0
    loss: float = 0.0


def not_routed(_: Node) -> Routing:
    """Where there is no pod network."""
    return Routing()


@dataclass(frozen=True, slots=True)
class Introspection:
    """Calls that servers may make.

    ``dump`` raises UnknownObject where there is no such map. ``backends_in_use`` counts the distinct backends that a new
    connection to the service could be given now. ``problems``: sentences about what sources said and cannot be used.
    ``failover_plans``: what a loss would do to one service, as seen from this node; none: it has no backend there.
    ``failovers``: those that are remembered, the oldest first.
    ``drops``: every reason and direction; None: no programs carry pods' packets here. ``confirm_removals`` lets go what of a
    remote cluster stands although it does not name it; None: there is no such peer. ``relearn_pin`` forgets what was learned
    of one, if anything was; raises JournalError.
    """

    build: Build
    features: Callable[[], Sequence[Feature]]
    programs: Callable[[], Sequence[Program]]
    maps: Callable[[], Sequence[KernelMap]]
    dump: Callable[[str], Iterator[MapRow]]
    figures: Callable[[], Sequence[Figure]]
    peers: Callable[[], Sequence[Peer]]
    reconcile: Callable[[], Reconcile]
    backends_in_use: Callable[[ServiceName], int]
    short_circuit: ShortCircuit
    drills: Drilling
    failover_plans: Callable[[ServiceName, Loss], Sequence[FailoverPlan]]
    failovers: Callable[[], Sequence[Failover]] = tuple
    problems: Callable[[], Sequence[str]] = tuple
    routing: Callable[[Node], Routing] = not_routed
    drops: Callable[[], Sequence[Drop] | None] = lambda: None
    confirm_removals: Callable[[str], Sequence[Removal] | None] = lambda _: None
    relearn_pin: Callable[[str], bool | None] = lambda _: None
