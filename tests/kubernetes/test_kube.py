"""``meshctl kube`` against a real API server without nodes: what is refused, and what is applied."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.api_server import ApiServerAlone

NAMESPACE = "meshd-system"
SERVER = ["--api-server", "10.0.0.2:6443"]
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
NODE_PORT = """
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {type: NodePort, selector: {app: shop}, ports: [{port: 80}]}
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {name: one}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
"""
READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
  - {apiGroups: ["*"], resources: ["*"], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
"""
KERNEL = {"status": {"nodeInfo": {"kernelVersion": "6.1.0-28-amd64"}}}


def meshctl(server: ApiServerAlone, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshd.ctl.main", "kube", action, f"--kubeconfig={server.admin}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=100)


def install(server: ApiServerAlone, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = meshctl(server, "install", "--no-wait", *SERVER, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def agents(server: ApiServerAlone) -> Any:  # Any: JSON
    return json.loads(server.kubectl("get", "daemonset", "meshd", "-n", NAMESPACE, "-o", "json"))


def config(server: ApiServerAlone) -> Any:  # Any: YAML
    said = json.loads(server.kubectl("get", "configmap", "meshd", "-n", NAMESPACE, "-o", "json"))
    return yaml.safe_load(said["data"]["meshd.yaml"])


@pytest.fixture(autouse=True)
def node(api_server: ApiServerAlone) -> Iterator[None]:
    """A Node that no kubelet speaks for, and afterwards nothing of what a test made."""
    api_server.kubectl("apply", "-f", "-", content=NODE)
    api_server.kubectl("patch", "node", "one", "--subresource=status", "-p", json.dumps(KERNEL))
    yield
    api_server.kubectl("delete", "networkpolicy,service", "--all", "-n", "default")
    api_server.kubectl("delete", "node", "--all")
    api_server.kubectl("delete", "daemonset,configmap", "--all", "-n", NAMESPACE, "--ignore-not-found")


def test_policies_that_nobody_would_enforce_are_refused_before_anything_is_changed(
    api_server: ApiServerAlone,
) -> None:
    api_server.kubectl("apply", "-f", "-", content=POLICY)
    done = meshctl(api_server, "install", "--no-wait", *SERVER)
    assert done.returncode == 1
    assert "meshd enforces none of 1 networkpolicies (default/deny)" in done.stdout
    assert api_server.kubectl("get", "daemonset", "-A", "-o", "name") == ""
    install(api_server, "--accept-unenforced-policies")


def test_node_ports_are_refused_without_kube_proxy_only(api_server: ApiServerAlone) -> None:
    api_server.kubectl("apply", "-f", "-", content=NODE_PORT)
    done = meshctl(api_server, "install", "--no-wait", "--without-kube-proxy", *SERVER)
    assert done.returncode == 1
    assert "nobody serves NodePort default/shop" in done.stdout
    install(api_server, "--without-kube-proxy", "--accept-unserved-ports")
    install(api_server)


def test_a_cluster_that_does_without_kube_proxy_is_upgraded_as_one(api_server: ApiServerAlone) -> None:
    install(api_server, "--without-kube-proxy")
    assert config(api_server)["kubernetes"]["kubeProxy"] is False
    api_server.kubectl("apply", "-f", "-", content=NODE_PORT)
    done = meshctl(api_server, "upgrade", "--no-wait", *SERVER)
    assert done.returncode == 1
    assert "nobody serves NodePort default/shop" in done.stdout


def test_an_api_server_on_loopback_is_none_for_nodes(api_server: ApiServerAlone) -> None:
    done = meshctl(api_server, "install", "--no-wait", "--api-server", "127.0.0.1:6443")
    assert done.returncode == 1
    assert "means each node itself" in done.stdout


def test_what_is_installed_is_what_was_asked_for(api_server: ApiServerAlone) -> None:
    install(api_server, "--image", "example/meshd:9")
    assert agents(api_server)["spec"]["template"]["spec"]["containers"][0]["image"] == "example/meshd:9"
    assert config(api_server)["kubernetes"]["apiServer"]["endpoints"] == ["10.0.0.2:6443"]


def test_a_second_install_changes_nothing(api_server: ApiServerAlone) -> None:
    install(api_server)
    before = agents(api_server)["metadata"]["generation"]
    install(api_server)
    assert agents(api_server)["metadata"]["generation"] == before


def test_an_upgrade_keeps_the_configuration_that_it_is_not_told_to_change(
    api_server: ApiServerAlone, tmp_path: Path
) -> None:
    file = tmp_path / "meshd.yaml"
    file.write_text("clusterName: east\nlogLevel: debug\n")
    install(api_server, "--config", str(file))
    file.write_text("logLevel: info\n")
    done = meshctl(
        api_server, "upgrade", "--no-wait", *SERVER, "--image", "example/meshd:10", "--config", str(file)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "to example/meshd:10" in done.stdout
    said = config(api_server)
    assert (said["clusterName"], said["logLevel"]) == ("east", "info")


def test_an_upgrade_of_nothing_says_what_to_do(api_server: ApiServerAlone) -> None:
    done = meshctl(api_server, "upgrade", "--no-wait")
    assert done.returncode == 1
    assert "no meshd in namespace meshd-system: meshctl kube install" in done.stderr


def test_a_dry_run_changes_nothing(api_server: ApiServerAlone) -> None:
    done = install(api_server, "--dry-run")
    assert "DaemonSet meshd" in done.stdout
    assert api_server.kubectl("get", "daemonset", "-A", "-o", "name") == ""


def test_who_may_only_read_checks_everything_but_nodes_from_inside(api_server: ApiServerAlone) -> None:
    api_server.kubectl("apply", "-f", "-", content=READER)
    system = {"status": {"nodeInfo": {"operatingSystem": "linux", "architecture": "amd64"}}}
    api_server.kubectl("patch", "node", "one", "--subresource=status", "-p", json.dumps(system))
    reader = api_server.client("reader")
    command = [sys.executable, "-m", "meshd.ctl.main", "kube", "check", f"--kubeconfig={reader}"]
    done = subprocess.run(
        [*command, "--image", "example/meshd:9"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ok +pod CIDRs ", done.stdout, re.MULTILINE)
    assert re.search(
        r"^warning +nodes +not looked at: one \(.*cannot create resource", done.stdout, re.MULTILINE
    )
    assert "kubectl delete namespace" not in done.stdout


def test_without_a_kubeconfig_the_reason_is_one_line(api_server: ApiServerAlone) -> None:
    command = [sys.executable, "-m", "meshd.ctl.main", "kube", "check", "--kubeconfig=/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("meshctl: ")
    assert done.stderr.count("\n") == 1
