"""What the doctor looked at, as values: the files of a cluster, and every etcd that they name as it answers now.

Gathered by examination.py, judged by doctor.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clustermesh.addresses import Network
from clustermesh.pin import ANY, Pin
from clustermesh.records import ClusterConfig


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A certificate that is shown to an etcd, or that its servers' certificates are judged by.

    ``problem``: why nobody can use it. ``begins`` and ``ends`` UTC; None: it was not read.
    """

    path: Path
    name: str = ""
    begins: datetime.datetime | None = None
    ends: datetime.datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One server of an etcd as it answers by itself.

    ``problem``: why it does not. ``chain_problem``: why its certificate is not believed for this address. ``ends``: when
    that certificate does. ``clock_ahead_s``: its clock less ours, to the second; None: it did not say.
    """

    address: str
    secure: bool = True
    problem: str = ""
    chain_problem: str = ""
    ends: datetime.datetime | None = None
    version: str = ""
    clock_ahead_s: float | None = None


@dataclass(frozen=True, slots=True)
class KeyLease:
    """What keeps ``key``: ``left_s`` of the ``granted_s`` seconds of its lease, both 0: it has none; ``left_s`` < 0: the
    lease is gone."""

    key: str
    left_s: int = 0
    granted_s: int = 0


@dataclass(frozen=True, slots=True)
class NodeNetworks:
    """The pod CIDRs of a node, and its addresses as networks of one."""

    name: str
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission of a role: ``text`` names it. ``writes``: it is one to write; ``private``: beyond what is shared."""

    role: str
    text: str
    writes: bool
    private: bool


@dataclass(frozen=True, slots=True)
class Users:
    """Who may do what. ``enabled``: etcd asks who somebody is. ``roles``: user -> its roles."""

    enabled: bool
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True)
class Etcd:
    """The etcd of ``cluster`` as the client file ``path`` reaches it; ``is_own``: of the cluster that looks.

    ``problem``: why nothing was read of it. ``config`` None: it names no such cluster, or ``config_problem``.
    ``heartbeat_at``: by the clock of who wrote it; None: there is none. ``heard_s``: how long ago it arrived at somebody who
    watches; None: nobody does. ``canaries``: keys. ``invalid``: of records, a
    sentence each. ``writable``, ``readable``: keys that this certificate may write, or read, and a peer must not.
    ``users`` None: not known; only a cluster's own certificate may ask.
    """

    cluster: str
    path: Path
    is_own: bool = False
    pin: Pin = ANY
    certificates: tuple[CertificateFile, ...] = ()
    members: tuple[Member, ...] = ()
    problem: str = ""
    config: ClusterConfig | None = None
    config_problem: str = ""
    heartbeat_at: datetime.datetime | None = None
    heard_s: float | None = None
    canaries: frozenset[str] = frozenset()
    leases: tuple[KeyLease, ...] = ()
    nodes: tuple[NodeNetworks, ...] = ()
    invalid: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    users: Users | None = None
    alarms: frozenset[str] = frozenset()

    @property
    def clock_ahead_s(self) -> float | None:
        """Of the member that is furthest from our clock; None: none of them said."""
        said = [each.clock_ahead_s for each in self.members if each.clock_ahead_s is not None]
        return max(said, key=abs, default=None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that was looked at ``now`` (UTC). ``cluster_id`` 0: not known. ``networks``: what the cluster that looks has, by
    its own file. ``refused``: path of a file that cannot be used -> why."""

    name: str
    now: datetime.datetime
    cluster_id: int = 0
    max_connected_clusters: int = 255
    networks: tuple[Network, ...] = ()
    etcds: tuple[Etcd, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
