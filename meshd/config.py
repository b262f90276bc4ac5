"""The agent's configuration: every option once, with its default and unit.

Everything an agent owns on a machine hangs off this value (network namespace apart, which is the one it runs in), so several
agents can run side by side: cgroup subtree, bpffs directory, run and state directories, sockets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from meshd.config_kubernetes import Kubernetes
from meshd.config_kubernetes import check as check_kubernetes
from meshd.config_pod_network import PodNetwork
from meshd.config_pod_network import check as check_pod_network
from meshd.config_probes import Probes
from meshd.config_probes import check as check_probes
from meshd.config_short_circuit import ShortCircuit
from meshd.config_short_circuit import check as check_short_circuit
from meshd.errors import ConfigError

# What a pod is told of its node by the downward API, where its manifest asks for that.
NODE_NAME = "NODE_NAME"
DEFAULT_PATH = Path("/etc/meshd/config.yaml")
HEALTH = "127.0.0.1:9879"


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One end of a TLS connection; files are PEM, and read again when they change.

    ``certificate``: what this end shows.
    ``key``: of the certificate.
    ``ca``: who signs the certificates that the other end may show.
    """

    certificate: Path
    key: Path
    ca: Path


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which certificates may do what: their common name, or *.suffix of a DNS name.

    ``read``: who may look.
    ``operate``: who may also change services and backends.
    ``admin``: who may do everything.
    """

    read: tuple[str, ...] = ()
    operate: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where the control API listens besides its Unix socket.

    ``listen``: host:port, with mTLS, so ``tls`` is needed; empty: nowhere.
    """

    listen: str = ""
    tls: Tls | None = None
    roles: Role = Role()


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What Prometheus reads.

    ``listen``: host:port of /metrics over HTTP; empty: nowhere.
    """

    listen: str = ""


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a kubelet asks: /healthz (the agent works) and /readyz (new pods can have a network).

    ``listen``: host:port, over HTTP; empty: nowhere; default: 127.0.0.1:9879 where the agent is the network of a node of
    Kubernetes, else nowhere.
    """

    listen: str | None = None


class Tracing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Spans of what a container runtime asks.

    ``otlp``: the collector that traces go to, OTLP over gRPC: http://HOST:PORT, https://HOST:PORT or unix:///PATH; empty:
    nowhere.
    """

    otlp: str = ""


class ClusterMesh(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Etcd of this cluster, and of its peers.

    ``etcd``: an etcd client YAML (endpoints, trusted-ca-file, cert-file, key-file) for this cluster's own etcd; empty: none.
    ``peers``: the directory with one such file per remote cluster, named like the cluster; empty: none.
    ``publish``: take part in the election of this cluster's publisher.
    ``election_lease_s``: after so long without a sign of life from the publisher another one is elected.
    ``data_lease_s``: for so long what was published outlives the last publisher.
    ``heartbeat_s``: how often the publisher says that it lives.
    ``hold_s``: for so long removals in a peer's etcd are held that take more than half of its backends within a minute while
    its nodes answer.
    ``on_stale``: what becomes of a peer's backends that nobody has vouched for for staleAfterS, for services that say
    nothing (annotation meshd.io/on-stale): keep, deprioritise (others first) or drop (no new connections).
    ``stale_after_s``: for so long nobody vouches for a backend until ``on_stale`` applies.
    ``max_connected_clusters``: 255 or 511, the same in every cluster of the mesh; how many identities a cluster has follows.
    ``endpoint_slices_export_mode``: as what services are written; empty: one value a service, which every Cilium reads;
    services-and-endpointslices: endpoint slices as well, which it knows since 1.20; endpointslices-only.
    """

    etcd: Path | None = None
    peers: Path | None = None
    publish: bool = True
    election_lease_s: int = 15
    data_lease_s: int = 900
    heartbeat_s: float = 60.0
    hold_s: float = 900.0
    on_stale: Literal["keep", "deprioritise", "drop"] = "keep"
    stale_after_s: float = 300.0
    max_connected_clusters: int = 255
    endpoint_slices_export_mode: Literal["", "services-and-endpointslices", "endpointslices-only"] = ""


class Maps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Capacities of the kernel maps, in entries. A map that exists keeps its capacity until it is empty.

    ``frontends``: addresses with a port that clients dial.
    ``slots``: places in the lists of backends of all frontends; a list that changes is there twice for a moment.
    ``members``: backends of frontends that are UDP or keep clients at their backend.
    ``affinity``: clients that are kept at their backend.
    ``connected``: sockets that were sent to a backend and are still open.
    ``datagrams``: unconnected UDP sockets with each peer they talk to.
    ``workloads``: pods of this node.
    ``pods``: addresses of pods of this node.
    ``destinations``: networks that pods reach in another way than the world.
    ``flows``: answered flows of pods; a translated one takes two.
    ``new_flows``: flows that nobody answered yet; the newest push out the oldest.
    ``fragments``: packets of which fragments are under way.
    ``short_circuits``: connections that are handed from socket to socket.
    """

    frontends: int = 65536
    slots: int = 524288
    members: int = 262144
    affinity: int = 65536
    connected: int = 262144
    datagrams: int = 65536
    workloads: int = 4096
    pods: int = 4096
    destinations: int = 65536
    flows: int = 262144
    new_flows: int = 65536
    fragments: int = 8192
    short_circuits: int = 16384


class Cni(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The CNI plugin; used where ``socket`` or ``pod_cidrs`` is set.

    ``socket``: where the shim finds the agent; default: cni.sock in runDir.
    ``conf_dir``, ``bin_dir``: where the container runtime looks, for `meshctl cni`.
    ``pod_cidrs``: whose addresses pods of this node get, IPv4 and IPv6; none: only chained after another plugin.
    ``reserved``: addresses or CIDRs in them that are given only to who asks by name.
    ``excluded``: addresses or CIDRs in them that are given to nobody.
    ``cool_down_s``: for so long a released address is given to nobody.
    """

    socket: Path | None = None
    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    pod_cidrs: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    cool_down_s: float = 30.0

    @property
    def is_used(self) -> bool:
        return self.socket is not None or bool(self.pod_cidrs)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole configuration, as in the YAML file (camelCase there).

    ``node_name``: what this node is called in its cluster, by Kubernetes too; default: $NODE_NAME.
    ``cluster_name``: what this cluster is called in the mesh.
    ``cluster_id``: its number in the mesh, 1 to 255 or 511; 0: in no mesh.
    ``zone``, ``region``: where this node is, for services that prefer backends near by.
    ``node_addresses``: by which other nodes reach this one; of a family that is not named, the address of the default
    route's device.
    ``cgroup``: socket hooks act on processes in this cgroup v2 subtree; default: its root, all of the machine.
    ``bpffs``: where programs and maps are pinned, in a BPF file system.
    ``run_dir``: sockets and what need not outlive a boot.
    ``state_dir``: journals, which have to outlive one.
    ``manifests``: a directory of Kubernetes YAML, watched; default: this source is not used.
    ``audit_interval_s``: how often what the kernel holds is compared with what it should hold.
    ``bpf_object``: another build of the BPF object than the one in the package (tests, emergency fixes).
    ``log_level``: the least that is logged: debug, info, warning or error.
    ``log_format``: json, text, or auto: text on a terminal.
    """

    node_name: str
    cluster_name: str = "default"
    cluster_id: int = 0
    zone: str = ""
    region: str = ""
    node_addresses: tuple[str, ...] = ()
    cgroup: Path | None = None
    bpffs: Path = Path("/sys/fs/bpf/meshd")
    run_dir: Path = Path("/run/meshd")
    state_dir: Path = Path("/var/lib/meshd")
    manifests: Path | None = None
    kubernetes: Kubernetes = Kubernetes()
    clustermesh: ClusterMesh = ClusterMesh()
    api: Api = Api()
    metrics: Metrics = Metrics()
    health: Health = Health()
    tracing: Tracing = Tracing()
    cni: Cni = Cni()
    pod_network: PodNetwork = PodNetwork()
    short_circuit: ShortCircuit = ShortCircuit()
    probes: Probes = Probes()
    maps: Maps = Maps()
    audit_interval_s: float = 30.0
    bpf_object: Path | None = None
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def socket(self) -> Path:
        """The Unix socket of the control API, mode 0660."""
        return self.run_dir / "meshd.sock"

    @property
    def health_listen(self) -> str:
        """host:port of /healthz and /readyz; empty: nowhere."""
        default = HEALTH if self.kubernetes.makes_network else ""
        return default if self.health.listen is None else self.health.listen

    @property
    def has_pod_network(self) -> bool:
        """Whether programs carry pods' packets."""
        wanted = self.pod_network.enabled
        return bool(self.cni.pod_cidrs) if wanted is None else wanted

    @property
    def cni_socket(self) -> Path:
        """The Unix socket of the CNI plugin, mode 0600."""
        return self.cni.socket or self.run_dir / "cni.sock"


def load(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``path``. One file serves all nodes of a cluster: which of them this is, ``environment`` may say.

    Raises:
        ConfigError: the file cannot be read or says something it may not; names file, field and reason.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    try:
        said = yaml.safe_load(text) or {}
        node = (os.environ if environment is None else environment).get(NODE_NAME)
        if node and isinstance(said, dict):
            said = {"nodeName": node, **said}
        config = msgspec.convert(said, Config, strict=False, dec_hook=_path)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    return checked(config)


def checked(config: Config) -> Config:
    """``config`` if its options fit together.

    Raises:
        ConfigError: names the options and what to change.
    """
    if config.api.listen and config.api.tls is None:
        raise ConfigError("api.listen needs api.tls: the control API leaves the node over mTLS only")
    if config.tracing.otlp and not config.tracing.otlp.startswith(("http://", "https://", "unix:///")):
        raise ConfigError(
            f"tracing.otlp is {config.tracing.otlp!r}, it must be http://HOST:PORT, https://HOST:PORT or unix:///PATH"
        )
    if config.cni.cool_down_s < 0:
        raise ConfigError(f"cni.coolDownS is {config.cni.cool_down_s:g}, it cannot be negative")
    for address in config.node_addresses:
        _check_address(address)
    check_pod_network(config.pod_network)
    check_short_circuit(config.short_circuit)
    check_probes(config.probes)
    check_kubernetes(config.kubernetes)
    mesh = config.clustermesh
    if mesh.election_lease_s >= mesh.data_lease_s:
        raise ConfigError(
            f"clustermesh.electionLeaseS ({mesh.election_lease_s}) must be shorter than dataLeaseS ({mesh.data_lease_s}), "
            "or a successor is elected only after the data is gone"
        )
    for name, value in (("holdS", mesh.hold_s), ("staleAfterS", mesh.stale_after_s)):
        if not value >= 0:
            raise ConfigError(f"clustermesh.{name} is {value:g}, it cannot be negative")
    if mesh.max_connected_clusters not in (255, 511):
        raise ConfigError(
            f"clustermesh.maxConnectedClusters is {mesh.max_connected_clusters}, it must be 255 or 511"
        )
    if mesh.etcd or mesh.peers:
        if not 1 <= config.cluster_id <= mesh.max_connected_clusters:
            raise ConfigError(
                f"clusterId is {config.cluster_id}, with clustermesh it must be 1..{mesh.max_connected_clusters}"
            )
        if config.cluster_name == "default":
            raise ConfigError("clusterName must be something else than `default` where clustermesh is used")
    return config


def _check_address(address: str) -> None:
    try:
        ip_address(address)
    except ValueError as error:
        raise ConfigError(f"nodeAddresses: {error}") from None


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)  # msgspec's word for: not a type of ours
