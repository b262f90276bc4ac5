"""A node with pods that are selected for the short circuit: the product's programs, switchboard and leaver, and no agent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshd.dataplane.pod_network import rows as pod_rows
from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.leaving import Leaver
from meshd.dataplane.short_circuit.rows import ConnectionRow, Layouts, PairRow, TotalRow
from meshd.dataplane.short_circuit.switchboard import Switchboard
from meshd.kernel.netns_id import netns_id
from meshd.kernel.object import BpfObject
from meshd.kernel.rcu import wait_for_programs
from meshd.kernel.route_socket import RouteSocket
from tests.bpf.translation import address
from tests.netns.pod_network.host import NODE, PROGRAMS, Host, Pod, host
from tests.patience import patience

# What a node has besides the pod network's programs.
ALL = (*PROGRAMS, *rows.PROGRAMS)
KNOBS = {"short_circuit": 1, "short_circuit_watch_ns": 0}


class Machine:
    """``node`` with the short circuit on. ``select`` says whose connections are looked at."""

    def __init__(self, node: Host, made: Layouts) -> None:
        self.node, self.made = node, made
        self.maps = node.loaded.maps
        self.switchboard = Switchboard(made, self.maps, node.loaded.programs)
        self.switchboard.connect()
        self.switchboard.turn(on=True)
        self.leaver = Leaver(made, self.maps, node.loaded.programs, wait_for_programs)
        self._route = node.netns.run(RouteSocket)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._leaving = asyncio.run_coroutine_threadsafe(self.leaver.run(), self._loop)

    def close(self) -> None:
        """Ends the leaver."""
        self._leaving.cancel()
        with contextlib.suppress(CancelledError):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(patience(10))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience(10))
        self._loop.close()
        self._route.close()

    def on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a part of the leaver where it lives."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(patience(10))

    def add_pod(self, number: int, *, selected: bool = True) -> Pod:
        """A pod, selected."""
        pod = self.node.add_pod(number)
        if selected:
            self.select(pod)
        return pod

    def select(self, pod: Pod, *, selected: bool = True) -> None:
        """Says that the pod's connections may be short-circuited, or not any more."""
        row = rows.WorkloadRow(pod.link.netns_cookie, netns_id(self._route, pod.netns))
        written = pod_rows.pods(self.node.codecs.pod_network, (pod.link,), short_circuit=selected)
        for name, of in written.items():
            for key, value in of.items():
                self.node.write(name, key, value)
        for at in pod.ip.values():
            self._write(at, row if selected else None)
        if not selected:
            self.switchboard.raise_epoch()

    def select_node(self) -> None:
        """The node's own processes, too."""
        for at in NODE.values():
            self._write(at, rows.WorkloadRow(self.node.netns.cookie(), -1))

    def _write(self, at: str, row: rows.WorkloadRow | None) -> None:
        table, key = self.maps["short_circuit_workloads"], self.made.address.encode(address(at))
        if row is None:
            table.delete(key)
        else:
            table.update(key, self.made.workload.encode(row))

    def connections(self) -> dict[TupleRow, ConnectionRow]:
        """Those that are admitted."""
        return {
            self.made.tuple.decode(key): self.made.connection.decode(value)
            for key, value in self.maps[rows.CONNECTIONS].items()
        }

    def selected(self) -> int:
        """How many addresses are selected."""
        return self.maps["short_circuit_workloads"].count()

    def totals(self) -> dict[PairRow, TotalRow]:
        """What the connections of two pods were that are over."""
        return {
            self.made.pair.decode(key): self.made.total.decode(value)
            for key, value in self.maps[rows.TOTALS].items()
        }

    def row_of(self, end: socket.socket) -> ConnectionRow | None:
        """That of a connection, by one of its sockets; None: it is not admitted, or has left."""
        ports = {end.getsockname()[1], end.getpeername()[1]}
        return next(
            (
                row
                for key, row in self.connections().items()
                if {key.source_port, key.destination_port} == ports
            ),
            None,
        )

    def waiting(self, end: socket.socket) -> tuple[int, ...]:
        """Bytes that wait in the queue of each of both sockets; nothing, if the connection is not admitted."""
        ports = {end.getsockname()[1], end.getpeername()[1]}
        for key in self.connections():
            if {key.source_port, key.destination_port} == ports:
                asked = self.made.check.encode(rows.CheckRow(key, (0, 0), (0, 0), 0))
                run = self.node.loaded.programs[rows.CHECK].test_run(context=asked)
                return self.made.check.decode(run.context).waiting
        return (0, 0)

    def sockets(self) -> int:
        """How many are in the map."""
        return len(list(self.maps[rows.SOCKETS].keys()))

    def events(self) -> dict[str, int]:
        """What became of connections that were looked at."""
        return {
            name: count
            for number, name in self.made.events.items()
            if (count := self.node.sum_of(rows.EVENTS, number))
        }

    def cause(self, name: str) -> int:
        """The number of a cause."""
        return next(number for number, each in self.made.causes.items() if each == name)

    def causes(self) -> dict[str, int]:
        """Why messages went on TCP, over all connections that are there."""
        found: dict[str, int] = {}
        for row in self.connections().values():
            for end in row.ends:
                for number, count in enumerate(end.causes):
                    if count:
                        found[self.made.causes[number]] = found.get(self.made.causes[number], 0) + count
        return found

    def handed_over(self) -> tuple[int, int]:
        """Bytes and messages that went from socket to socket, of connections that are there."""
        ends = [end for row in self.connections().values() for end in row.ends]
        return sum(end.bytes for end in ends), sum(end.messages for end in ends)


@contextmanager
def machine(
    run_name: str,
    pins: Path | None = None,
    programs: tuple[str, ...] = ALL,
    sizes: Mapping[str, int] | None = None,
    **knobs: int,
) -> Iterator[Machine]:
    """A node with the short circuit on, and no pod yet; its maps are pinned in ``pins``, ``sizes`` says how large."""
    with BpfObject.open() as bpf:
        made = rows.layouts(bpf.btf)
    with host(run_name, sizes, pins, programs, **(KNOBS | knobs)) as node:
        running = Machine(node, made)
        try:
            yield running
        finally:
            running.close()
