"""What a cluster has once: etcd, API server, controller manager and scheduler, all in one network namespace."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from scripts.kubernetes import api_server, components, kubeconfig
from scripts.kubernetes.api_server import ApiServer
from scripts.kubernetes.certificates import Authority
from scripts.kubernetes.layout import API_PORT, ETCD_URL, Cluster
from scripts.kubernetes.processes import Program

CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The programs, in the order in which they start."""

    server: ApiServer
    etcd: Program
    api_server: Program
    controller_manager: Program
    scheduler: Program


def url(cluster: Cluster) -> str:
    """Where nodes find the API server."""
    return f"https://{cluster.control.v4.ip}:{API_PORT}"


def make_keys(cluster: Cluster, authority: Authority, access: IPv4Address) -> api_server.Keys:
    """What the API server starts with: it serves at its address on the network, as a service, and for this machine."""
    first = [services[1] for services in cluster.services]
    return api_server.make_keys(authority, [*(each.ip for each in cluster.control), access, *first])


def write_clients(cluster: Cluster, authority: Authority) -> None:
    """Kubeconfigs of controller manager and scheduler."""
    for name in (CONTROLLER_MANAGER, SCHEDULER):
        pair = authority.issue(f"system:{name}")
        kubeconfig.write(_kubeconfig(cluster, name), url(cluster), authority.certificate, pair)


def _kubeconfig(cluster: Cluster, name: str) -> Path:
    return cluster.state / f"{name}.kubeconfig"


def control_plane(
    cluster: Cluster, keys: api_server.Keys, access: IPv4Address, pods_v4: int = 24
) -> ControlPlane:
    """All programs of ``cluster``; ``access`` is the API server's address for this machine, ``pods_v4`` the length of each
    node's IPv4 network of pods."""
    server = ApiServer(
        access,
        API_PORT,
        ETCD_URL,
        cluster.services,
        keys,
        cluster.state / "kube-apiserver",
        cluster.control.v4.ip,
    )
    return ControlPlane(
        server,
        _program(cluster, "etcd", _etcd(cluster)),
        _program(cluster, "kube-apiserver", server.command()),
        _program(cluster, CONTROLLER_MANAGER, _controller_manager(cluster, keys, pods_v4)),
        _program(cluster, SCHEDULER, _scheduler(cluster)),
    )


def _program(cluster: Cluster, name: str, argv: list[str]) -> Program:
    enter = ("nsenter", f"--net={cluster.netns}", "--")
    return Program(name, argv, f"{cluster.cgroup}/{name}", enter, cluster.state / "log" / f"{name}.log")


def _etcd(cluster: Cluster) -> list[str]:
    return [
        *("etcd", "--name", cluster.name, "--data-dir", str(cluster.etcd_data / "data")),
        *("--listen-client-urls", ETCD_URL, "--advertise-client-urls", ETCD_URL),
        *("--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error"),
    ]


def _controller_manager(cluster: Cluster, keys: api_server.Keys, pods_v4: int) -> list[str]:
    return [
        str(components.program(CONTROLLER_MANAGER)),
        f"--kubeconfig={_kubeconfig(cluster, CONTROLLER_MANAGER)}",
        *("--leader-elect=false", "--use-service-account-credentials"),
        *("--allocate-node-cidrs", f"--cluster-cidr={','.join(map(str, cluster.pods))}"),
        f"--node-cidr-mask-size-ipv4={pods_v4}",
        f"--service-cluster-ip-range={','.join(map(str, cluster.services))}",
        *(f"--cluster-name={cluster.site.name}-{cluster.name}", f"--root-ca-file={keys.authority}"),
        *(
            f"--service-account-private-key-file={keys.accounts_key}",
            f"--cert-dir={cluster.state / CONTROLLER_MANAGER}",
        ),
    ]


def _scheduler(cluster: Cluster) -> list[str]:
    return [
        *(str(components.program(SCHEDULER)), f"--kubeconfig={_kubeconfig(cluster, SCHEDULER)}"),
        *("--leader-elect=false", f"--cert-dir={cluster.state / SCHEDULER}"),
    ]
