"""What the demo puts into its clusters: a global service, its backends and its clients. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshd.lab.workloads import PROGRAMS

NAMESPACE = "default"
SERVICE, CLIENT = "rebel-base", "x-wing"
PORT, BACKEND_PORT = 80, 8080
BACKENDS = 2
CLIENTS = 2
# As in the lab: 4 clients of both clusters make 240 requests a second.
RATE = 60
# Longer than the lab's: two whole clusters share this machine's processors, and a request that waits for one is not lost.
# What is refused or reset is lost at once, and what goes to an address that is gone is not answered in any time.
DEADLINE_S = 10
# For so long a backend accepts after SIGTERM. News of it goes through the API server, a controller, an etcd and other
# clusters' agents, all of which wait for this machine's processors at times.
GRACE_S = 8
# Any: objects of Kubernetes.
Object = dict[str, Any]


def service() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE,
            "namespace": NAMESPACE,
            "annotations": {"service.cilium.io/global": "true"},
        },
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": SERVICE},
            "ports": [{"name": "main", "port": PORT, "targetPort": BACKEND_PORT}],
        },
    }


def programs() -> Object:
    """Clients' and backends' programs, which know nothing of meshd."""
    content = {path.name: path.read_text() for path in PROGRAMS.values()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "programs", "namespace": NAMESPACE},
        "data": content,
    }


def backends(cluster: str, image: str, directory: Path) -> Object:
    """``directory``: on the node, where each pod has one of its own name."""
    made = _deployment(
        SERVICE,
        BACKENDS,
        image,
        directory,
        ["--port", str(BACKEND_PORT), "--grace", str(GRACE_S)],
        {"CLUSTER_NAME": cluster},
    )
    (container,) = made["spec"]["template"]["spec"]["containers"]
    # A connection, not a request: what a backend counts are clients' requests only.
    container["readinessProbe"] = {
        "tcpSocket": {"port": BACKEND_PORT},
        "periodSeconds": 1,
        # On a busy machine a backend that answers late is not one that does not; one that was killed is not ready at once.
        "timeoutSeconds": 10,
        "failureThreshold": 10,
    }
    return made


def clients(addresses: list[str], image: str, directory: Path) -> Object:
    """``addresses``: the service's, of both families; Kubernetes tells pods of one only."""
    name = SERVICE.upper().replace("-", "_")
    arguments = ["--service", SERVICE, "--rate", str(RATE), "--deadline", str(DEADLINE_S)]
    told = {f"{name}_SERVICE_HOSTS": ",".join(addresses), f"{name}_SERVICE_PORT": str(PORT)}
    return _deployment(
        CLIENT,
        CLIENTS,
        image,
        directory,
        arguments,
        told,
    )


def _deployment(
    name: str, replicas: int, image: str, directory: Path, arguments: list[str], told: dict[str, str]
) -> Object:
    program = f"/programs/{PROGRAMS[name].name}"
    env: list[Object] = [{"name": key, "value": value} for key, value in told.items()]
    env += [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_DIR", "value": "/pod"},
    ]
    container = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        # Neither site-packages nor the environment: what is there matters nothing, and Python starts in half the time.
        "command": ["python3", "-I", "-S", program, *arguments],
        "env": env,
        "volumeMounts": [
            {"name": "programs", "mountPath": "/programs", "readOnly": True},
            {"name": "pod", "mountPath": "/pod", "subPathExpr": "$(POD_NAME)"},
        ],
    }
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 60,
        # Pods that call one service of many need not be told of all.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "volumes": [
            {"name": "programs", "configMap": {"name": "programs"}},
            {"name": "pod", "hostPath": {"path": str(directory), "type": "DirectoryOrCreate"}},
        ],
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
