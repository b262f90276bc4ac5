"""What runs on a node: containerd, a kubelet, and a kube-proxy where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from scripts.kubernetes import components, control_plane, images, kubeconfig
from scripts.kubernetes.certificates import Authority
from scripts.kubernetes.layout import Node
from scripts.kubernetes.processes import Program

SOCKET = "/run/containerd/containerd.sock"
PROXY = "system:kube-proxy"
NODES = "system:nodes"
# What a kube-proxy may read is a role that every cluster has.
PROXY_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "kube-proxy"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:node-proxier",
    },
    "subjects": [{"kind": "User", "name": PROXY, "apiGroup": "rbac.authorization.k8s.io"}],
}
SYS_RESOURCE = 24  # linux/capability.h
CONTAINERD = """
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{unused}]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = {restricted}
disable_hugetlb_controller = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
# What of containerd is not used here, and looks for programs and file systems that need not be there.
UNUSED = ("aufs", "btrfs", "devmapper", "zfs")


def write_files(node: Node, authority: Authority, proxy_mode: str) -> None:
    """Settings, certificates and kubeconfigs of all programs of ``node``, in its directory."""
    state, cluster = node.state, node.cluster
    (state / "containerd.toml").write_text(_containerd_settings(Path("/proc/self/status").read_text()))
    serving = authority.issue(node.name, addresses=[each.ip for each in node.addresses], hosts=[node.name])
    (state / "resolv.conf").write_text("")
    (state / "kubelet.json").write_text(
        json.dumps(_kubelet_settings(node, authority.certificate, serving.certificate, serving.key), indent=2)
    )
    (state / "kube-proxy.json").write_text(json.dumps(_proxy_settings(node, proxy_mode), indent=2))
    url = control_plane.url(cluster)
    for name, user, groups in (
        ("kubelet", f"system:node:{node.name}", [NODES]),
        ("kube-proxy", PROXY, []),
    ):
        pair = authority.issue(user, groups)
        kubeconfig.write(state / f"{name}.kubeconfig", url, authority.certificate, pair)


def containerd(node: Node, enter: Sequence[str]) -> Program:
    return _program(
        node, "containerd", ["containerd", "--config", str(node.state / "containerd.toml")], enter
    )


def kubelet(node: Node, enter: Sequence[str]) -> Program:
    labels = f"topology.kubernetes.io/zone={node.zone},topology.kubernetes.io/region={node.cluster.name}"
    command = [
        *(str(components.program("kubelet")), f"--config={node.state}/kubelet.json"),
        *(f"--kubeconfig={node.state}/kubelet.kubeconfig", f"--hostname-override={node.name}"),
        *(f"--node-ip={','.join(str(each.ip) for each in node.addresses)}", f"--node-labels={labels}"),
    ]
    return _program(node, "kubelet", command, enter)


def kube_proxy(node: Node, enter: Sequence[str]) -> Program:
    command = [str(components.program("kube-proxy")), f"--config={node.state}/kube-proxy.json"]
    return _program(node, "kube-proxy", command, enter)


def _program(node: Node, name: str, argv: list[str], enter: Sequence[str]) -> Program:
    return Program(name, argv, f"{node.system}/{name}", enter, node.state / "log" / f"{name}.log", True)


def _containerd_settings(status: str) -> str:
    """``status``: /proc/self/status."""
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return CONTAINERD.format(
        unused=", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in UNUSED),
        socket=SOCKET,
        pause=images.PAUSE,
        # Without the capability nobody can be made less likely to be killed than we are.
        restricted="false" if effective >> SYS_RESOURCE & 1 else "true",
    )


def _kubelet_settings(node: Node, authority: Path, certificate: Path, key: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "clusterDomain": "cluster.local",
        "clusterDNS": [str(node.cluster.dns[0])],
        "resolvConf": str(node.state / "resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "cgroupDriver": "cgroupfs",
        # Version 2 beside version 1 counts as version 1.
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        # Nobody would bring an image back, and a full disk of this machine is no affair of a test's pods.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "shutdownGracePeriod": "0s",
    }


def _proxy_settings(node: Node, mode: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(node.state / "kube-proxy.kubeconfig")},
        "hostnameOverride": node.name,
        "mode": mode,
        "clusterCIDR": ",".join(map(str, node.cluster.pods)),
        # The limits of the whole machine are not a node's to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
