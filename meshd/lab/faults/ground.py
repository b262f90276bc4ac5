"""The lab that faults act on: three clusters of two nodes, a backend, a client and a dialler on each node."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from meshd.kernel.netns import Netns
from meshd.lab import cuts
from meshd.lab.cuts import Drop
from meshd.lab.demo import watched
from meshd.lab.demo.checks import PodCounts
from meshd.lab.demo.requests import Log, Request
from meshd.lab.faults import words
from meshd.lab.faults.verdict import Written
from meshd.lab.faults.words import Attempt, Fall
from meshd.lab.lab import Lab
from meshd.lab.layout import Node
from meshd.lab.processes import Program, gone, start, tell
from meshd.lab.readiness import settled
from meshd.lab.record import LabError, Pod
from meshd.lab.spec import ClusterSpec, LabSpec, LeaseSpec, PodSpec, ServiceSpec
from meshd.lab.tail import Tail
from meshd.lab.up import on_thread

SERVICE = "rebel-base"
CLIENT = "x-wing"
PORT = 8080
# Requests/s of all clients together.
RATE = 500.0
# Short, so that a series can wait until what a cluster published is gone.
ELECTION_LEASE_S, DATA_LEASE_S = 3, 6
CLUSTERS = ("cm-1", "cm-2", "cm-3")
NODES = 2
# A dialler asks each backend so often, and waits less than a client: what it says is older than what clients notice.
DIAL_S, DIAL_DEADLINE_S = 0.25, 1.0
FIRST_S = 60.0
RESTART_PATIENCE_S = 90.0


def spec(rate: float, clusters: Sequence[str] = CLUSTERS, *, tunnels: bool = False) -> LabSpec:
    """``clusters`` with one global service; clients of ``rate`` requests/s, all nodes together.

    ``tunnels``: nodes reach each other's pods in tunnels, not natively as neighbours do.
    """
    each = rate / (len(clusters) * NODES)
    return LabSpec(
        clusters=tuple(ClusterSpec(name, number, NODES) for number, name in enumerate(clusters, 1)),
        pods=(
            PodSpec(SERVICE, (SERVICE, "--port", str(PORT)), count=NODES),
            PodSpec(CLIENT, (CLIENT, "--service", SERVICE, "--rate", f"{each:g}"), count=NODES),
        ),
        services=(ServiceSpec(SERVICE, {"app": SERVICE}, annotations={"meshd.io/global": "true"}),),
        routing="vxlan" if tunnels else "auto",
        leases=LeaseSpec(ELECTION_LEASE_S, DATA_LEASE_S),
    )


class Ground:
    """``lab`` stands and is settled. What its clients, diallers and agents write gathers here when `read` is called."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        every = list(lab.record.pods.values())
        self.backends = [pod for pod in every if pod.name.startswith(f"{SERVICE}-")]
        self.clients = [pod for pod in every if pod.name.startswith(f"{CLIENT}-")]
        self.requests: list[Request] = []
        self.attempts: list[Attempt] = []
        self.falls: list[Fall] = []
        self.clients_died = False
        # Nodes whose agents were started anew, until somebody takes note of it.
        self.fresh_agents: set[str] = set()
        self._drops: dict[str, tuple[Drop, ...]] = {}
        self._dropping = asyncio.Lock()
        self._elected: dict[str, tuple[int, str]] = {}
        self._requests = {pod.id: self._log_of(pod) for pod in self.clients}
        self._attempts = {pod.node: Tail(self._dialler(pod) / "attempts.log") for pod in self.clients}
        self._agents = {node.name: Tail(lab.places.agent_log(node)) for node in lab.nodes}

    @property
    def node_of(self) -> Mapping[str, str]:
        """The node of each client and backend, by CLUSTER/POD."""
        return {pod.id: pod.node for pod in (*self.clients, *self.backends)}

    def start_diallers(self) -> None:
        """In the namespaces of clients, but below no node's cgroup: no hook of meshd sees what they dial."""
        targets = [f"{pod.id}={self.lab.addresses(pod).v4}" for pod in self.backends]
        script = Path(__file__).with_name("dialler.py")
        timing = ["--port", str(PORT), "--interval", str(DIAL_S), "--deadline", str(DIAL_DEADLINE_S)]
        for pod in self.clients:
            directory = self._dialler(pod)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            program = Program(
                f"dialler of {pod.node}",
                [sys.executable, "-I", "-S", str(script), *timing, *targets],
                self.lab.places.cgroup / "diallers" / pod.node,
                self.lab.places.pod_netns(pod.cluster, pod.name),
                directory / "log",
                {"DIALLER_DIR": str(directory)},
            )
            self.lab.running[f"dialler/{pod.node}"] = start(program)

    async def everybody_calls(self) -> None:
        """Returns when every client and every dialler has written something.

        Raises:
            LabError: who has not.
        """
        deadline = time.monotonic() + FIRST_S
        while True:
            self.read()
            silent = {pod.id for pod in self.clients} - {each.client for each in self.requests}
            silent |= {pod.node for pod in self.clients} - {each.node for each in self.attempts}
            if not silent:
                return
            if time.monotonic() > deadline:
                raise LabError(f"nothing was called by {', '.join(sorted(silent))} after {FIRST_S:g} s")
            await asyncio.sleep(0.1)

    def read(self) -> None:
        """Takes in what was written since the last time."""
        for log in self._requests.values():
            self.requests += log.new()
        for node, tail in self._attempts.items():
            self.attempts += [words.attempt(node, line) for line in tail.new()]
        for node, tail in self._agents.items():
            for said in map(words.event, tail.new()):
                self._hear(node, said)

    def take_before(self, end_ns: int) -> Written:
        """What was begun or said before ``end_ns``, for the last time; what is under way then comes with the next."""
        self.read()
        written = Written(
            [each for each in self.requests if each.begun_ns < end_ns],
            [each for each in self.attempts if each.begun_ns < end_ns],
            [each for each in self.falls if each.at_ns < end_ns],
            self.node_of,
        )
        self.requests = [each for each in self.requests if each.begun_ns >= end_ns]
        self.attempts = [each for each in self.attempts if each.begun_ns >= end_ns]
        self.falls = [each for each in self.falls if each.at_ns >= end_ns]
        return written

    def _hear(self, node: str, said: dict[str, object]) -> None:
        if (fall := words.fall(node, said)) is not None:
            self.falls.append(fall)
        if said.get("event") == words.ELECTED:
            cluster = self.lab.node(node).cluster
            self._elected[cluster] = max(
                self._elected.get(cluster, (0, "")), (words.monotonic_ns(said), node)
            )

    def publisher_of(self, cluster: str) -> Node:
        """The node whose agent was elected last.

        Raises:
            LabError: none ever was.
        """
        self.read()
        if cluster not in self._elected:
            raise LabError(f"no agent of cluster {cluster} says that it was elected publisher")
        return self.lab.node(self._elected[cluster][1])

    async def is_answered(self, here: str, there: str, more_bytes: int) -> bool:
        """Whether the backend on ``there`` answers the client on ``here`` a request with so many spare bytes."""
        client = next(pod for pod in self.clients if pod.node == here)
        backend = next(pod for pod in self.backends if pod.node == there)
        with Netns.open(self.lab.places.pod_netns(client.cluster, client.name)) as netns:
            asking = netns.run(lambda: socket.socket(socket.AF_INET))
        with asking:
            asking.settimeout(DIAL_DEADLINE_S)
            return await on_thread(_ask, asking, str(self.lab.addresses(backend).v4), more_bytes)

    # What faults do

    async def drop(self, fault: str, drops: Iterable[Drop]) -> None:
        """``fault`` drops these frames of the fabric, besides what others drop."""
        # One after the other: whoever came last would else be forgotten by who is done last.
        async with self._dropping:
            self._drops[fault] = tuple(drops)
            every = [each for some in self._drops.values() for each in some]
            await on_thread(cuts.drop, self.lab.places, every)

    async def carry(self, fault: str) -> None:
        """``fault`` drops nothing any more."""
        await self.drop(fault, ())

    async def kill_agent(self, node: Node) -> None:
        place = self.lab.places.agent_cgroup(node)
        tell(place, signal.SIGKILL)
        await gone(place)

    def start_agent(self, node: Node) -> None:
        """A new process, which does not remember how often a node fell."""
        self.lab.start_agent(node)
        self.fresh_agents.add(node.name)

    async def restart_agents(self) -> None:
        """New processes everywhere."""
        for node in self.lab.nodes:
            await self.kill_agent(node)
            self.start_agent(node)
        await settled(self.lab, RESTART_PATIENCE_S)

    def start_client(self, pod: Pod) -> None:
        """A client that was killed calls again; what it wrote before is kept."""
        self.read()
        (self.lab.places.pod(pod.cluster, pod.name) / "requests.log").unlink(missing_ok=True)
        self.lab.start_pod(pod)
        self._requests[pod.id] = self._log_of(pod)
        self.clients_died = True

    async def end_calls(self) -> None:
        """Clients and diallers end, so that everything they began has its outcome."""
        places = [self.lab.pod_cgroup(pod) for pod in self.clients]
        places.append(self.lab.places.cgroup / "diallers")
        for place in places:
            tell(place, signal.SIGTERM)
        await asyncio.gather(*(gone(place) for place in places))
        self.read()

    def counts(self) -> Mapping[str, PodCounts]:
        """What every backend counted, by CLUSTER/POD."""
        return watched.counted((self.lab.places.run / "pods").glob(f"*/{SERVICE}-*/counts"))

    def _log_of(self, pod: Pod) -> Log:
        return Log(pod.id, self.lab.places.pod(pod.cluster, pod.name) / "requests.log")

    def _dialler(self, pod: Pod) -> Path:
        return self.lab.places.run / "diallers" / pod.node


def _ask(asking: socket.socket, address: str, more_bytes: int) -> bool:
    try:
        asking.connect((address, PORT))
        asking.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * more_bytes + b"\r\n\r\n")
        return asking.recv(1) != b""
    except TimeoutError:
        return False
