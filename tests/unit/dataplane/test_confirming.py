"""What is read of connections while nodes are down, and what the mesh is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import pytest

from meshd.dataplane import attempts
from meshd.dataplane.attempts import Attempts
from meshd.dataplane.layouts import AttemptsRow, Endpoint, Layouts, layouts
from meshd.dataplane.probes import confirming
from meshd.dataplane.probes.confirmation import Connects
from meshd.dataplane.probes.confirming import Confirming, Silent
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject
from meshd.kernel.prober import Health, Sample
from meshd.model import Backend, BackendPort, BackendSlice, Node, Outage, Protocol, ServiceName, parse_address
from meshd.model.outage import PROBES
from meshd.state import Mesh

SOURCE = "cluster:cm-2"
EVERY_S = 0.05


@pytest.fixture(scope="module")
def made() -> Iterator[Layouts]:
    with BpfObject.open() as bpf:
        yield layouts(bpf.btf)


class Rows:
    """In the place of the map: who was looked up, and what is there."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []
        self.broken = False

    def lookup(self, key: bytes) -> bytes | None:
        if self.broken:
            raise KernelError("look up in", "map attempts", 1)
        self.asked.append(key)
        return self.rows.get(key)


class Site:
    """Nodes n1 ... of cm-2, with 10.2.N.0/24 each, that fell silent at 100; ``now`` is the prober's clock."""

    def __init__(self, made: Layouts, nodes: int, backends: int) -> None:
        self.made, self.mesh, self.map, self.now = made, Mesh(), Rows(), 100.6
        self.seen: list[tuple[str, Connects]] = []
        ports = (BackendPort("http", Protocol.TCP, 80), BackendPort("dns", Protocol.UDP, 53))
        found: list[Backend] = []
        for number in range(1, nodes + 1):
            self.mesh.apply(
                SOURCE, [Node("cm-2", f"n{number}", SOURCE, pod_cidrs=(f"10.2.{number * 4}.0/22",))]
            )
            found += [
                Backend(parse_address(f"10.2.{number * 4 + each // 250}.{each % 250 + 1}"), ports)
                for each in range(backends)
            ]
        self.mesh.apply(
            SOURCE, [BackendSlice(ServiceName("default", "web"), "part", SOURCE, "cm-2", tuple(found))]
        )
        read = Attempts(self.mesh, made, cast(Map, self.map))  # of the map only `lookup` is used
        self.confirming = Confirming(
            self.mesh, read, lambda _, node, connects: self.seen.append((node, connects))
        )

    def endpoint(self, address: str) -> bytes:
        return self.made.endpoint.encode(Endpoint(parse_address(address), 80, Protocol.TCP))

    def note(self, address: str, last: float, *counts: int, answered_at: float = 0.0) -> None:
        row = AttemptsRow(int(last * 1e9), int(answered_at * 1e9), *counts)
        self.map.rows[self.endpoint(address)] = self.made.attempts.encode(row)

    def look(self, *nodes: str, after_s: float = EVERY_S) -> bool:
        self.now += after_s
        unanswered = int((self.now - 100) / EVERY_S)
        sample = Sample(unanswered, 0, 99, 9, self.now, 100.0, 0.001, 0)
        silent = {("cm-2", node): Silent("cm-2", node, sample) for node in nodes}
        return self.confirming.look(silent, Health(self.now, 0.0), EVERY_S, lambda _, since: self.now > since)

    def outage(self, node: str) -> Outage:
        return self.confirming.judged(Outage("cm-2", node, 1.0, ""))


def test_only_tcp_backends_of_nodes_that_are_down_are_looked_up(made: Layouts) -> None:
    site = Site(made, nodes=2, backends=2)
    site.note("10.2.4.1", 100.5, 3, 9, 6)
    site.look("n1")
    assert sorted(site.map.asked) == sorted(map(site.endpoint, ("10.2.4.1", "10.2.4.2")))
    assert site.seen == [("n1", Connects(3, 0, 100.5))]
    assert site.confirming.connects("cm-2", "n1") == Connects(3, 0, 100.5)
    assert site.confirming.connects("cm-2", "n2") is None
    # Not again at once.
    site.look("n1")
    assert len(site.map.asked) == 2


def test_of_many_nodes_some_are_looked_at_in_each_turn_and_all_of_them_in_time(made: Layouts) -> None:
    site = Site(made, nodes=5, backends=attempts.ROWS_MOST + 88)
    names = [f"n{number}" for number in range(1, 6)]
    site.look(*names)
    assert len(site.map.asked) == 2 * attempts.ROWS_MOST == confirming.ROWS_A_TURN
    for _ in range(2):
        site.look(*names)
    assert sorted(node for node, _ in site.seen) == names


def test_an_outage_is_told_as_confirmed_or_contradicted_once_each(made: Layouts) -> None:
    site = Site(made, nodes=2, backends=1)
    site.note("10.2.8.1", 100.5, 0, 1, 1, answered_at=100.5)
    changes = [site.look("n1", "n2", after_s=0.25) for _ in range(12)]
    assert changes.count(True) == 2
    assert (site.outage("n1").confirmed, site.outage("n1").contradicted) == (True, False)
    assert (site.outage("n2").confirmed, site.outage("n2").contradicted) == (False, True)
    # A node that answers again, and falls again, begins anew.
    site.look("n2")
    site.look("n1", "n2")
    assert not site.outage("n1").confirmed


def test_what_an_earlier_process_found_of_an_outage_stands(made: Layouts) -> None:
    site = Site(made, nodes=2, backends=1)
    past = [
        Outage("cm-2", "n1", time.time(), "", confirmed=True),
        Outage("cm-2", "n2", time.time(), "", contradicted=True),
    ]
    site.mesh.restore(PROBES, past)
    assert [site.look("n1", "n2", after_s=0.25) for _ in range(12)] == [False] * 12
    assert [site.confirming.judged(each) for each in past] == past


def test_while_the_map_cannot_be_read_nothing_is_confirmed(made: Layouts) -> None:
    site = Site(made, nodes=1, backends=1)
    site.map.broken = True
    for _ in range(40):
        site.look("n1", after_s=0.1)
    assert not site.outage("n1").confirmed
    site.map.broken = False
    for _ in range(25):
        site.look("n1", after_s=0.1)
    assert site.outage("n1").confirmed
