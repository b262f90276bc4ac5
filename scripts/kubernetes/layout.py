"""What follows from a name and numbers alone: paths and addresses. Nothing here touches the machine.

A *site* is what one name makes: a network with a router, a world outside, and one or more clusters on it. Everything of a
site is found by its name again, so taking it down needs no record.

Address plan (all of it in the site's own network namespaces; k is a cluster's number, n a node's, both from 1):

    network      10.210.0.0/16   fd00:d2::/64        cluster k's API server is 10.210.k.1, its node n 10.210.k.(10+n)
    pods         10.(210+k)/16   fd00:d2:k::/48      a /24 and a /64 for each node, given by the controller manager
    services     10.(220+k)/20   fd00:d3:k::/112     the second address is the API server's, the tenth is DNS
    outside      203.0.113.0/24  2001:db8:ff::/64    the router knows the way there, and none to pods
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)
from pathlib import Path

RUN_ROOT = Path("/run/meshd-kubernetes")
STATE_ROOT = Path("/var/lib/meshd-kubernetes")
# Names of links are made of it: 15 characters, of which ours take up to five.
NAME = re.compile(r"[a-z][a-z0-9]{0,9}")
ROUTER = (IPv4Interface("10.210.0.1/16"), IPv6Interface("fd00:d2::1/64"))
OUTSIDE_ROUTER = (IPv4Interface("203.0.113.254/24"), IPv6Interface("2001:db8:ff::fe/64"))
OUTSIDE = (IPv4Interface("203.0.113.1/24"), IPv6Interface("2001:db8:ff::1/64"))
# Of a range for tests of network devices (RFC 2544): pairs of addresses between this machine and API servers.
ACCESS = IPv4Network("198.18.0.0/15")
API_PORT = 6443
ETCD_URL = "http://127.0.0.1:2379"
LAST = 9


@dataclass(frozen=True, slots=True)
class Addresses:
    """One address of each family."""

    v4: IPv4Interface
    v6: IPv6Interface

    def __iter__(self) -> Iterator[IPv4Interface | IPv6Interface]:
        return iter((self.v4, self.v6))


@dataclass(frozen=True, slots=True)
class Site:
    """Where everything of site ``name`` is."""

    name: str

    @property
    def run(self) -> Path:
        """Network namespaces, each with a name."""
        return RUN_ROOT / self.name

    @property
    def state(self) -> Path:
        """What programs of the site keep: certificates, logs, images, kubelets' and containerds' directories."""
        return STATE_ROOT / self.name

    def netns(self, name: str) -> Path:
        return self.run / "netns" / name

    @property
    def router(self) -> Path:
        return self.netns("router")

    @property
    def outside(self) -> Path:
        return self.netns("outside")

    @property
    def bridge(self) -> str:
        return f"{self.name}b"

    def cluster(self, number: int) -> Cluster:
        return Cluster(self, number)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cluster ``number`` of a site."""

    site: Site
    number: int

    @property
    def name(self) -> str:
        return f"c{self.number}"

    @property
    def state(self) -> Path:
        return self.site.state / self.name

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def etcd_data(self) -> Path:
        return self.state / "etcd"

    @property
    def admin(self) -> Path:
        """A kubeconfig that may do everything, for this machine."""
        return self.state / "admin.kubeconfig"

    @property
    def netns(self) -> Path:
        """Of etcd, API server, controller manager and scheduler."""
        return self.site.netns(self.name)

    @property
    def access(self) -> str:
        """The name of this machine's link to the API server."""
        return f"{self.site.name}{self.number}a"

    @property
    def cgroup(self) -> str:
        """Relative to a hierarchy's root; a program NAME of the control plane is in ``NAME`` below."""
        return f"{self.site.name}/{self.name}/control"

    @property
    def control(self) -> Addresses:
        return self._address(1)

    @property
    def pods(self) -> tuple[IPv4Network, IPv6Network]:
        return IPv4Network(f"10.{210 + self.number}.0.0/16"), IPv6Network(f"fd00:d2:{self.number}::/48")

    @property
    def services(self) -> tuple[IPv4Network, IPv6Network]:
        return IPv4Network(f"10.{220 + self.number}.0.0/20"), IPv6Network(f"fd00:d3:{self.number}::/112")

    @property
    def dns(self) -> tuple[IPv4Address, IPv6Address]:
        v4, v6 = self.services
        return v4[10], v6[10]

    def node(self, number: int) -> Node:
        return Node(self, number)

    def _address(self, host: int) -> Addresses:
        return Addresses(
            IPv4Interface(f"10.210.{self.number}.{host}/16"),
            IPv6Interface(f"fd00:d2::{self.number}:{host:x}/64"),
        )


@dataclass(frozen=True, slots=True)
class Node:
    """Node ``number`` of a cluster."""

    cluster: Cluster
    number: int

    @property
    def name(self) -> str:
        """What Kubernetes calls it."""
        return f"{self.cluster.name}-n{self.number}"

    @property
    def zone(self) -> str:
        return f"z{self.number}"

    @property
    def state(self) -> Path:
        return self.cluster.site.state / self.name

    @property
    def netns(self) -> Path:
        return self.cluster.site.netns(self.name)

    @property
    def addresses(self) -> Addresses:
        return self.cluster._address(10 + self.number)

    @property
    def cgroup(self) -> str:
        """Relative to a hierarchy's root; it is the root of what programs and pods of the node see."""
        return f"{self.cluster.site.name}/{self.cluster.name}/{self.name}"

    @property
    def system(self) -> str:
        """Relative to a hierarchy's root: its programs, each in one of its name. Pods are in ``kubepods`` beside it."""
        return f"{self.cgroup}/system"

    @property
    def link(self) -> str:
        """The name of its link's other end, on the bridge."""
        return f"{self.cluster.site.name}{self.cluster.number}n{self.number}"


def access(number: int) -> tuple[IPv4Interface, IPv4Interface]:
    """The ``number``-th pair of addresses between this machine (first) and an API server (second)."""
    first = int(ACCESS.network_address) + number % (ACCESS.num_addresses // 4) * 4
    near, far = (ip_interface(f"{IPv4Address(first + host)}/30") for host in (1, 2))
    assert isinstance(near, IPv4Interface)  # noqa: S101 - of IPv4 addresses
    assert isinstance(far, IPv4Interface)  # noqa: S101
    return near, far
