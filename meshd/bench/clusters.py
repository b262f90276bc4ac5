"""Two clusters of one node for a bench: an etcd each (``etcds.py``), and an agent each.

Both are in one namespace, each etcd at an address of its loopback; no link between them adds to what is measured.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address

from meshd.bench.agents import Agent
from meshd.bench.etcds import Etcd
from meshd.bench.places import Place, Places
from meshd.kernel import cgroup


class Cluster:
    """``name`` with number ``number`` (1..199), its etcd running and its agent not yet; all ends with ``stack``."""

    def __init__(
        self, places: Places, place: Place, stack: contextlib.ExitStack, name: str, number: int
    ) -> None:
        self.name = name
        self._number = number
        self._place = replace(place, name=name, cgroup=place.cgroup.with_name(f"{place.cgroup.name}-{name}"))
        cgroup.create(self._place.cgroup)
        self._places = places
        self._stack = stack
        self._etcd = Etcd(places, stack, name, place.client, IPv4Address(f"127.0.{number}.1"))
        self._peers = self._etcd.directory / "peers"
        self._peers.mkdir()
        self._client_file = self._etcd.directory / "etcd.yaml"
        self._client_file.write_text(self._etcd.access("client"))

    def follow(self, other: Cluster) -> None:
        """This cluster's agent will read what ``other`` shares."""
        (self._peers / other.name).write_text(other._etcd.access(f"remote-{self.name}"))

    def start_agent(self) -> Agent:
        """The agent of the one node."""
        options: dict[str, object] = {
            "nodeName": f"{self.name}-n1",
            "clusterName": self.name,
            "clusterId": self._number,
            "clustermesh": {"etcd": str(self._client_file), "peers": str(self._peers)},
        }
        return self._stack.enter_context(Agent(self._places, self._place, options))

    def wait_for_etcd(self) -> None:
        """Returns when etcd takes connections; raises BenchError with the end of its log if it does not."""
        self._etcd.wait()
