"""What is known of this node's links and addresses, as plans use it: looked up by `pod_network/uplinks.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshd.dataplane.ways import Ways
from meshd.model import Address

# The vxlan device of this node, if it needs one.
TUNNEL_DEVICE = "meshd-vxlan"


@dataclass(frozen=True, slots=True)
class Uplink:
    """A link that leads out of the node. ``v4``, ``v6``: its first global address of the family, for what leaves."""

    ifindex: int
    name: str
    v4: Address | None = None
    v6: Address | None = None
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Found:
    """One look. ``addresses``: all of this node's, pods' namespaces apart. ``node_v4``, ``node_v6``: under which other nodes
    reach this one. ``tunnel_ifindex`` 0: there is no tunnel device. ``not_carried``: devices that lead out of the node, on
    which no program can act. ``looked`` False: there was no look yet."""

    uplinks: tuple[Uplink, ...] = ()
    addresses: frozenset[Address] = frozenset()
    node_v4: Address | None = None
    node_v6: Address | None = None
    tunnel_ifindex: int = 0
    not_carried: tuple[str, ...] = ()
    looked: bool = True


@dataclass(slots=True)
class Devices:
    """``now``: the last look, replaced as a whole; whoever does so touches the plan keys that depend on it. ``ways``: to
    other nodes. ``strangers``: addresses of pods here that another plugin connected; the stack knows where they are."""

    now: Found = field(default_factory=lambda: Found(looked=False))
    ways: Ways = field(default_factory=Ways)
    strangers: frozenset[Address] = frozenset()
