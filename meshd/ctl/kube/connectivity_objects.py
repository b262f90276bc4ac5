"""The objects of a test of connectivity, for a namespace of its own. Pods in it need no rights at all. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshd.ctl.kube.connectivity_rows import PORT, Target
from meshd.ctl.kube.throwaway import LIFE_S, Object, labels

PROBER = Path(__file__).with_name("prober.py")
PURPOSE = "connectivity"
LABELS = labels(PURPOSE)
NAME_LABEL = "meshd.io/connectivity"
ACCOUNT = "prober"


def account() -> Object:
    """One of their own: the default one comes a moment after its namespace, and pods are refused until then."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT},
        "automountServiceAccountToken": False,
    }


def program() -> Object:
    """The prober, for pods to mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ACCOUNT},
        "data": {PROBER.name: PROBER.read_text()},
    }


def server(name: str, node: str, image: str) -> Object:
    """A pod that answers."""
    made = _pod(name, node, image, ["serve", str(PORT)], {"NODE": node})
    container = made["spec"]["containers"][0]
    container["ports"] = [{"containerPort": PORT}]
    # Also a test: the node has to reach its pod.
    container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "timeoutSeconds": 3}
    return made


def service(name: str) -> Object:
    """The service of the server called ``name``, in the families that the cluster has."""
    ports = [
        {"name": protocol.lower(), "protocol": protocol, "port": PORT, "targetPort": PORT}
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {"selector": {NAME_LABEL: name}, "ipFamilyPolicy": "PreferDualStack", "ports": ports},
    }


def client(name: str, node: str, image: str, targets: Sequence[Target]) -> Object:
    """A pod that tries ``targets``, prints what came, and ends."""
    said = json.dumps([each.asked for each in targets])
    made = _pod(name, node, image, ["probe"], {"TARGETS": said})
    made["spec"]["containers"][0]["env"].append(
        {"name": "ADDRESSES", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}
    )
    return made


def _pod(name: str, node: str, image: str, arguments: Sequence[str], env: Mapping[str, str]) -> Object:
    container = {
        "name": "prober",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", f"/prober/{PROBER.name}", *arguments],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": "prober", "mountPath": "/prober", "readOnly": True}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {**LABELS, NAME_LABEL: name}},
        "spec": {
            # By name, past the scheduler: a node that is cordoned has a network as well.
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFE_S,
            "terminationGracePeriodSeconds": 1,
            # A resolver that does not answer is found out sooner than with 5 s each.
            "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "2"}]},
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "runAsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "prober", "configMap": {"name": ACCOUNT}}],
        },
    }
