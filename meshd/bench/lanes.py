"""Paths that are ready to be dialled: place, server, client, and what translates service addresses there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from meshd.bench import iptables, netfilter, nftables
from meshd.bench.agents import Agent
from meshd.bench.connect import DIRECT, case_of
from meshd.bench.places import Cpus, Place, Places
from meshd.bench.population import BenchService
from meshd.bench.workers import Worker, client_at, serve_at

MESHD, NFTABLES, IPTABLES = "meshd", "nftables", "iptables"


@dataclass(frozen=True, slots=True)
class Lane:
    """One path with one population. ``loaded_s``: what loading its rules took, 0 where there are none."""

    path: str
    services: Sequence[BenchService]
    place: Place
    server: Worker
    client: Worker
    loaded_s: float = 0.0


class Lanes:
    """Opens lanes in ``places``; all that runs in them ends with ``stack``."""

    def __init__(self, places: Places, stack: contextlib.ExitStack) -> None:
        self.places = places
        self.cpus = Cpus.chosen()
        self._stack = stack

    def direct(self, services: Sequence[BenchService]) -> Lane:
        """Nothing is translated: for those who dial backends."""
        return self._lane(DIRECT, services, self._place(DIRECT, services))

    def meshd(self, services: Sequence[BenchService]) -> tuple[Lane, Agent]:
        """With an agent that knows no service yet."""
        place = self._place(MESHD, services)
        agent = self._stack.enter_context(Agent(self.places, place))
        return self._lane(MESHD, services, place), agent

    def nftables(self, services: Sequence[BenchService]) -> Lane:
        """With kube-proxy's nftables rules for ``services``, loaded in one transaction."""
        place = self._place(NFTABLES, services)
        taken = netfilter.load(self.places, place, ("nft", "-f", "-"), nftables.ruleset(services))
        return self._lane(NFTABLES, services, place, taken)

    def iptables(self, services: Sequence[BenchService]) -> Lane:
        """With kube-proxy's iptables rules for ``services``, restored in one go."""
        place = self._place(IPTABLES, services)
        command = (iptables.restore_command(), "--noflush")
        taken = netfilter.load(self.places, place, command, iptables.ruleset(services))
        return self._lane(IPTABLES, services, place, taken)

    def _place(self, path: str, services: Sequence[BenchService]) -> Place:
        return self.places.place(f"{path} with {case_of(len(services))}")

    def _lane(self, path: str, services: Sequence[BenchService], place: Place, loaded_s: float = 0.0) -> Lane:
        server = serve_at(place, self.places, self.cpus)
        self._stack.callback(server.close)
        client = client_at(place, self.cpus)
        self._stack.callback(client.close)
        return Lane(path, services, place, server, client, loaded_s)
