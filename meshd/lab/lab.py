"""A lab being built and changed: pods come and go as in a cluster, the record first, the machine after it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from meshd.kernel import cgroup, netns
from meshd.lab import agents, cni, etcd, layout, record, topology, workloads
from meshd.lab.api import ClusterApi
from meshd.lab.cni import Container
from meshd.lab.down import down
from meshd.lab.environment import environment
from meshd.lab.layout import Addresses, Cluster, Node, Places
from meshd.lab.objects import Condition, selects
from meshd.lab.processes import Program, Started, all_ready, start
from meshd.lab.record import LabError, Pod, Record
from meshd.lab.spec import LabSpec


class Lab:
    """What is in force of one lab. Made by whoever holds it (``record.held``)."""

    def __init__(self, places: Places, spec: LabSpec) -> None:
        self.places = places
        self.spec = spec
        self.clusters = layout.clusters(spec)
        self.record = Record(places.id, "starting", spec)
        self.apis = {c.name: ClusterApi(places, c, spec.services_of(c.name)) for c in self.clusters}
        self.running: dict[str, Started] = {}
        self._next_host: dict[str, int] = {}
        self._made: dict[tuple[str, str], int] = {}

    @classmethod
    def opened(cls, places: Places) -> Lab:
        """A lab that stands, as its record has it; to look at, not to change.

        Raises:
            LabError: it has no record.
        """
        found = record.read(places)
        lab = cls(places, found.spec)
        lab.record = found
        return lab

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for cluster in self.clusters for node in cluster.nodes)

    def cluster(self, name: str) -> Cluster:
        return next(cluster for cluster in self.clusters if cluster.name == name)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def pods_of(self, cluster: str, name: str) -> list[Pod]:
        """The living pods of ``cluster`` that pod spec ``name`` describes."""
        return [
            p for p in self.record.pods.values() if p.cluster == cluster and p.name.startswith(f"{name}-")
        ]

    def keep_as(self, keeper: str) -> None:
        """Says in the record what the lab is for (``Record.keeper``)."""
        self.record.keeper = keeper
        record.write(self.places, self.record)

    def make_network(self) -> None:
        """The fabric, and all nodes on it; nothing runs yet."""
        topology.make_fabric(self.places)
        for cluster in self.clusters:
            topology.make_etcd(self.places, cluster)
        for node in self.nodes:
            topology.make_node(self.places, node)
            cgroup.create(self.places.node_cgroup(node))

    def write_objects(self) -> None:
        """What the clusters' API servers hold before any pod."""
        used = {pod.namespace for pod in self.spec.pods} | {
            service.namespace for service in self.spec.services
        }
        namespaces = sorted(used | {"default"})
        for api in self.apis.values():
            api.write_fixed(namespaces)

    def start_etcd(self, cluster: Cluster) -> Started:
        return self._start(f"etcd/{cluster.name}", etcd.program(self.places, cluster), notify=True)

    def start_agent(self, node: Node) -> Started:
        return self._start(f"meshd/{node.name}", agents.program(self.places, node))

    def add_pods(self, cluster: Cluster, name: str, count: int) -> list[Pod]:
        """``count`` new pods of pod spec ``name``: recorded, then known to the API and attached; nothing runs in them yet.

        Raises:
            CniFailed: the agent of a node does not give one its interface.
        """
        spec = next(pod for pod in self.spec.pods if pod.name == name)
        added = []
        for _ in range(count):
            number = self._made[cluster.name, name] = self._made.get((cluster.name, name), 0) + 1
            node = cluster.nodes[(number - 1) % len(cluster.nodes)]
            host = self._next_host.get(node.name, layout.FIRST_POD_HOST)
            if host > layout.LAST_POD_HOST:
                raise LabError(f"node {node.name} has no pod address left; take the lab down and up again")
            self._next_host[node.name] = host + 1
            labels, full_name = spec.all_labels, f"{name}-{number}"
            added.append(Pod(cluster.name, node.name, spec.namespace, full_name, host, labels, spec.command))
        self.record.pods.update({pod.id: pod for pod in added})
        record.write(self.places, self.record)
        for pod in added:
            addresses, container = self.addresses(pod), self._container(pod)
            self.apis[pod.cluster].add_pod(pod, addresses)
            topology.make_pod(container.netns)
            # With the addresses of the plan (``layout.py``), which the Pod object names already.
            cni.add(self.places.cni_socket(self.node(pod.node)), container, tuple(addresses))
        return added

    def _container(self, pod: Pod) -> Container:
        netns = self.places.pod_netns(pod.cluster, pod.name)
        return Container(f"{self.places.id}-{pod.cluster}-{pod.name}", netns, pod.namespace, pod.name)

    def start_pod(self, pod: Pod) -> Started:
        """Runs the pod's command in its namespace and cgroup, with the environment Kubernetes would give it."""
        directory = self.places.pod(pod.cluster, pod.name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = Program(
            f"pod {pod.id}",
            workloads.resolve(pod.command),
            self.pod_cgroup(pod),
            self.places.pod_netns(pod.cluster, pod.name),
            directory / "log",
            environment(self.places, self.spec, self.cluster(pod.cluster), pod),
        )
        return self._start(f"pod/{pod.id}", program, notify=pod.command[0] in workloads.SAY_READY)

    async def run_pods(self, pods: Sequence[Pod]) -> None:
        """Starts ``pods`` and, when all that say so are ready, makes them endpoints of their services."""
        await self.start_servers(pods)
        self.set_condition(pods, Condition.READY)

    async def start_servers(self, pods: Sequence[Pod]) -> None:
        """Starts ``pods``; returns when all that say so are ready. Their services do not know them yet."""
        await all_ready([self.start_pod(pod) for pod in pods])

    def set_condition(self, pods: Sequence[Pod], condition: Condition) -> int:
        """Moves ``pods`` in their services' EndpointSlices; when that was begun, in monotonic nanoseconds."""
        changed_ns = time.monotonic_ns()
        for cluster in {pod.cluster for pod in pods}:
            self.apis[cluster].set_condition([p for p in pods if p.cluster == cluster], condition)
        ids = {pod.id for pod in pods}
        self.record.ready = (
            self.record.ready | ids if condition is Condition.READY else self.record.ready - ids
        )
        record.write(self.places, self.record)
        return changed_ns

    def remove_from_services(self, pods: Sequence[Pod]) -> None:
        """Takes ``pods`` out of their services' EndpointSlices."""
        for cluster in {pod.cluster for pod in pods}:
            self.apis[cluster].remove_from_slices([p for p in pods if p.cluster == cluster])
        self.record.ready -= {pod.id for pod in pods}
        record.write(self.places, self.record)

    def remove_pod(self, pod: Pod) -> None:
        """The pod's object, interface, namespace and cgroup go; its processes have ended. Its logs and counts stay until
        `down`.
        """
        container = self._container(pod)
        self.apis[pod.cluster].remove_pod(pod, self.addresses(pod))
        cni.delete(self.places.cni_socket(self.node(pod.node)), container)
        netns.remove_named(container.netns)
        cgroup.remove_tree(self.pod_cgroup(pod))
        self.running.pop(f"pod/{pod.id}").reap()
        del self.record.pods[pod.id]
        self.record.ready.discard(pod.id)
        record.write(self.places, self.record)

    def pod_cgroup(self, pod: Pod) -> Path:
        return self.places.pod_cgroup(self.node(pod.node), pod.name)

    def take_down(self) -> None:
        """Removes all of the lab (``down.py``); no process of it is left to this one as a zombie, also if that fails."""
        try:
            down(self.places)
        except BaseException:
            for started in self.running.values():
                started.reap_if_ended()
            raise
        for started in self.running.values():
            started.reap()
        self.running.clear()

    def addresses(self, pod: Pod) -> Addresses:
        return self.node(pod.node).pod_address(pod.host)

    def serves_in(self, pod: Pod, cluster: str) -> bool:
        """Whether ``cluster`` has the pod as a backend: its own pods behind a service, others' if that is global."""
        here = self.spec.services_of(cluster)
        return any(
            selects(service, pod) and (pod.cluster == cluster or (service.is_global and index in here))
            for index, service in self.spec.services_of(pod.cluster).items()
        )

    def _start(self, key: str, program: Program, *, notify: bool = False) -> Started:
        if key in self.running:
            self.running[key].reap()
        self.running[key] = start(program, notify=notify)
        return self.running[key]
