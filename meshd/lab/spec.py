"""lab.yaml: which clusters, nodes, pods and services a lab consists of.

Read once at ``lab up``; what is in force afterwards stands in the lab's record (``record.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from meshd.errors import ConfigError

# RFC 1123 label, as Kubernetes and the clustermesh wire format want names; 32 is clustermesh's limit for a cluster.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
CLUSTER_NAME_MAX = 32
# The address plan (layout.py) gives every cluster id a /16 of pods and a /20 of services.
CLUSTER_ID_MAX = 199
NODES_MAX = 100
GLOBAL_ANNOTATIONS = ("meshd.io/global", "service.cilium.io/global", "io.cilium/global-service")


class ClusterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: str
    id: int
    nodes: int = 2


class PodSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``count`` pods per cluster of ``command``, spread over its nodes in turn.

    ``command[0]`` is one of the built-in programs (rebel-base, x-wing) or a program of the machine.
    """

    name: str
    command: tuple[str, ...]
    count: int = 1
    clusters: tuple[str, ...] = ()
    namespace: str = "default"
    labels: dict[str, str] = {}

    @property
    def all_labels(self) -> dict[str, str]:
        """What selectors see: ``app`` is the name unless said otherwise."""
        return {"app": self.name, **self.labels}


class ServiceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A ClusterIP service, IPv4 and IPv6, in ``clusters`` (empty: in all)."""

    name: str
    selector: dict[str, str]
    port: int = 80
    target_port: int = 8080
    namespace: str = "default"
    clusters: tuple[str, ...] = ()
    annotations: dict[str, str] = {}

    @property
    def is_global(self) -> bool:
        """Whether other clusters' services of the same name use its backends."""
        return any(self.annotations.get(key, "").lower() == "true" for key in GLOBAL_ANNOTATIONS)


class LeaseSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """As in the agents' configuration (clustermesh.electionLeaseS and dataLeaseS)."""

    election_lease_s: int
    data_lease_s: int


class LabSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``routing``: how nodes reach each other's pods, as in the agents' configuration (podNetwork.routing).
    ``leases``: None: the agents' defaults.
    """

    clusters: tuple[ClusterSpec, ...]
    pods: tuple[PodSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    routing: Literal["auto", "native", "vxlan"] = "auto"
    leases: LeaseSpec | None = None

    def services_of(self, cluster: str) -> dict[int, ServiceSpec]:
        """The services of ``cluster``, by their place among all (the same in every cluster)."""
        every = enumerate(self.services)
        return {index: s for index, s in every if not s.clusters or cluster in s.clusters}

    def pods_of(self, cluster: str) -> list[PodSpec]:
        """The kinds of pods that run in ``cluster``."""
        return [pod for pod in self.pods if not pod.clusters or cluster in pod.clusters]

    def is_server(self, pod: PodSpec) -> bool:
        """Whether a service selects the pod."""
        return any(
            s.namespace == pod.namespace and s.selector.items() <= pod.all_labels.items()
            for s in self.services
        )


# 4 clients of 60 requests/s: 240 in total, above the 200 that the demo promises even if a tick comes late.
DEFAULT = LabSpec(
    clusters=(ClusterSpec("cm-1", 1), ClusterSpec("cm-2", 2)),
    pods=(
        PodSpec("rebel-base", ("rebel-base", "--port", "8080"), count=2),
        PodSpec("x-wing", ("x-wing", "--service", "rebel-base", "--rate", "60"), count=2),
    ),
    services=(
        ServiceSpec("rebel-base", {"app": "rebel-base"}, annotations={"service.cilium.io/global": "true"}),
    ),
)


def load(path: Path) -> LabSpec:
    """The lab that ``path`` describes.

    Raises:
        ConfigError: the file cannot be read, or says what no lab can be; names file, object, field and reason.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"lab file {path} cannot be read: {error.strerror}") from error
    try:
        return checked(msgspec.convert(yaml.safe_load(text), LabSpec))
    except yaml.YAMLError as error:
        raise ConfigError(f"lab file {path} is not YAML: {error}") from error
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"lab file {path}: {error}") from error


def checked(spec: LabSpec) -> LabSpec:
    """``spec`` if it can be built.

    Raises:
        ConfigError: names the object, its field and the reason.
    """
    if not spec.clusters:
        raise ConfigError("clusters: a lab needs at least one cluster")
    for cluster in spec.clusters:
        _check_cluster(cluster)
    _unique("clusters", "name", [c.name for c in spec.clusters])
    _unique("clusters", "id", [str(c.id) for c in spec.clusters])
    names = {c.name for c in spec.clusters}
    for pod in spec.pods:
        _check_pod(pod, names)
    _unique("pods", "name", [pod.name for pod in spec.pods])
    for service in spec.services:
        _check_service(service, names)
    _unique("services", "namespace/name", [f"{s.namespace}/{s.name}" for s in spec.services])
    return spec


def _check_cluster(cluster: ClusterSpec) -> None:
    where = f"cluster {cluster.name!r}"
    _check_name(where, "name", cluster.name)
    if len(cluster.name) > CLUSTER_NAME_MAX or cluster.name == "default":
        raise ConfigError(f"{where}: name: at most {CLUSTER_NAME_MAX} characters, and not 'default'")
    if not 1 <= cluster.id <= CLUSTER_ID_MAX:
        raise ConfigError(f"{where}: id: {cluster.id} is not in 1..{CLUSTER_ID_MAX}")
    if not 1 <= cluster.nodes <= NODES_MAX:
        raise ConfigError(f"{where}: nodes: {cluster.nodes} is not in 1..{NODES_MAX}")


def _check_pod(pod: PodSpec, clusters: set[str]) -> None:
    where = f"pod {pod.name!r}"
    _check_name(where, "name", pod.name)
    _check_name(where, "namespace", pod.namespace)
    _check_clusters(where, pod.clusters, clusters)
    if not pod.command:
        raise ConfigError(f"{where}: command: is empty")
    if not 0 <= pod.count <= 100:
        raise ConfigError(f"{where}: count: {pod.count} is not in 0..100")


def _check_service(service: ServiceSpec, clusters: set[str]) -> None:
    where = f"service {service.name!r}"
    _check_name(where, "name", service.name)
    _check_name(where, "namespace", service.namespace)
    _check_clusters(where, service.clusters, clusters)
    for field, port in (("port", service.port), ("targetPort", service.target_port)):
        if not 1 <= port <= 65535:
            raise ConfigError(f"{where}: {field}: {port} is not in 1..65535")
    if not service.selector:
        raise ConfigError(f"{where}: selector: is empty, so it would select nothing")


def _check_clusters(where: str, named: tuple[str, ...], clusters: set[str]) -> None:
    for name in named:
        if name not in clusters:
            raise ConfigError(f"{where}: clusters: there is no cluster {name!r}")


def _check_name(where: str, field: str, name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > 63:
        raise ConfigError(f"{where}: {field}: must be lower-case letters, digits and '-', at most 63")


def _unique(objects: str, field: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ConfigError(f"{objects}: {field}: {twice[0]!r} is there twice")
