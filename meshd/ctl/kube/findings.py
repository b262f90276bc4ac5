"""What is known of a cluster before meshd comes, what the user accepts, and what follows, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from meshd.ctl.kube.looks import Look

Network = IPv4Network | IPv6Network

# The oldest with AppArmor as a field.
KUBERNETES = (1, 30)
SHOWN = 5


class Level(Enum):
    """``REFUSED``: nothing is installed until it is mended or accepted."""

    OK = "ok"
    WARNING = "warning"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """``about``: the concern, in a word or two; ``remedy``: what to do, where something is to be done."""

    level: Level
    about: str
    said: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the API server knows it. ``cgroups``: the version that its kubelet found; 0: it does not say. ``is_alive``:
    its kubelet is heard. ``look``: what it says of itself, where it was asked."""

    name: str
    kernel: str = "6.1.0"
    system: str = "linux"
    architecture: str = "amd64"
    pod_cidrs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    cgroups: int = 0
    is_alive: bool = True
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """``policies``: resource -> names. ``ports``: what is served to the outside (services, pods), each as one phrase.

    ``peers``: other cluster of the mesh -> networks that it was joined with. ``not_looked``: node -> why nobody looked.
    """

    version: tuple[int, int] = KUBERNETES
    nodes: tuple[Node, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    daemon_sets: frozenset[str] = frozenset()
    policies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    api_servers: tuple[str, ...] = ()
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_looked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the user wants, and what he takes with it."""

    without_kube_proxy: bool = False
    unenforced_policies: bool = False
    unserved_ports: bool = False
    other_cni: bool = False


def ordered(found: Sequence[Finding]) -> list[Finding]:
    """Those that refuse last, where they are read."""
    return sorted(found, key=lambda each: list(Level).index(each.level))


def some(names: Sequence[str]) -> str:
    """``names`` as people list them, the first few of many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
