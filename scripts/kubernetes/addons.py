"""What a cluster of one's own is given when it is to work before there is a mesh: a network for pods, and DNS."""

from __future__ import annotations

import json

from scripts.kubernetes import images, network
from scripts.kubernetes.cluster import RunningCluster

CONFLIST = "/etc/cni/net.d/10-bridge.conflist"
COREFILE = """
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    cache 5
    loadbalance
    reload
}
"""
DNS = "kube-dns"
PORTS = ({"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53})


def install_bridge(cluster: RunningCluster) -> None:
    """Debian's bridge and host-local plugins on every node, routes between them, and returns when all nodes are ready."""
    pods = cluster.registered()
    for node in cluster.nodes:
        plugins = [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": each}] for each in pods[node.name]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        conflist = json.dumps({"cniVersion": "0.4.0", "name": "bridge", "plugins": plugins})
        # On the node: a runtime that watches the directory hears of what is written through the mount that it sees.
        node.run("sh", "-c", f"cat >{CONFLIST}", content=conflist)
        for other in cluster.nodes:
            for destination in pods[other.name] if other is not node else ():
                network.add_pod_route(node.place, other.place, destination)
        for setting in network.ROUTING:
            node.run("sh", "-c", f"echo 1 >/proc/sys/{setting}")
    names = {node.name for node in cluster.nodes}
    cluster.wait("nodes with a network", lambda: set(cluster.ready_nodes()) == names)


def install_dns(cluster: RunningCluster, replicas: int = 1) -> None:
    """CoreDNS as a Deployment behind the service that kubelets tell pods of; returns when it is ready.

    It needs a network of pods, and somebody who serves services: it asks the API server by the address of its service.
    """
    cluster.apply(*dns_objects(cluster, replicas))
    cluster.kubectl("rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=100s")


def dns_objects(cluster: RunningCluster, replicas: int) -> list[object]:
    """Everything that CoreDNS needs (https://github.com/coredns/deployment/tree/master/kubernetes has the same roles)."""
    labels = {"k8s-app": DNS}
    name = {"name": "coredns", "namespace": "kube-system"}
    rules = [
        {
            "apiGroups": [""],
            "resources": ["services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    authorization = "rbac.authorization.k8s.io"
    container = {
        "name": "coredns",
        "image": images.COREDNS,
        "imagePullPolicy": "Never",
        "command": ["/bin/coredns", "-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    v4, v6 = cluster.place.dns
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": name, "data": {"Corefile": COREFILE}},
        {
            "apiVersion": f"{authorization}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": rules,
        },
        {
            "apiVersion": f"{authorization}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": {"apiGroup": authorization, "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"kind": "ServiceAccount", **name}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": DNS, "namespace": "kube-system", "labels": labels},
            "spec": {
                "selector": labels,
                "clusterIP": str(v4),
                "clusterIPs": [str(v4), str(v6)],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [*PORTS],
            },
        },
    ]
