"""Chart, base and overlays, judged by Helm, kustomize and a real API server: they are one thing in three forms."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustermesh.etcd_members import Members
from meshd.ctl.clustermesh import etcd
from meshd.ctl.kube import manifests
from scripts.kubernetes import components
from tests.kubernetes.api_server import ApiServerAlone

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "meshd"
KUBERNETES = ROOT / "deploy" / "kubernetes"
NAMESPACE = "meshd-system"
# Helm takes a cluster that it cannot ask for an old one.
TEMPLATE = ("template", "meshd", CHART, "--kube-version", "1.36.0")
# Any: objects of Kubernetes, as JSON.
Objects = dict[tuple[str, str], dict[str, Any]]


def run(program: str, *arguments: str | Path) -> str:
    """What the program prints; it has to succeed."""
    done = subprocess.run(
        [components.program(program), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def chart(*arguments: str) -> Objects:
    return by_name(run("helm", *TEMPLATE, "--namespace", NAMESPACE, *arguments))


def by_name(text: str) -> Objects:
    """Objects by kind and name. What of them depends on the form in which they came is taken away: the name and text of the
    configuration, which is parsed, and the mark of it on pods."""
    found = {}
    for each in filter(None, yaml.safe_load_all(text)):
        if each["kind"] == "ConfigMap":
            each["metadata"]["name"] = each["metadata"]["name"].split("-")[0]
            each["data"] = {name: yaml.safe_load(content) for name, content in each["data"].items()}
        if each["kind"] == "DaemonSet":
            each["spec"]["template"]["metadata"].pop("annotations", None)
            for volume in each["spec"]["template"]["spec"]["volumes"]:
                if volume["name"] == "config":
                    volume["configMap"]["name"] = volume["configMap"]["name"].split("-")[0]
        found[each["kind"], each["metadata"]["name"]] = each
    return found


def without_namespace(objects: Objects) -> Objects:
    return {key: each for key, each in objects.items() if key[0] != "Namespace"}


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    run("helm", "lint", "--strict", CHART)


def test_chart_base_and_meshctl_make_the_same_objects() -> None:
    base = by_name(run("kubectl", "kustomize", KUBERNETES / "base"))
    applied = by_name(yaml.safe_dump_all(manifests.objects(manifests.Choice())))
    assert applied == base
    assert chart() == without_namespace(base)


def test_values_of_the_chart_are_in_what_it_makes() -> None:
    values = ["--set", "image=example/meshd@sha256:1,config.clusterName=other,tolerations=null"]
    values += ["--set-json", 'imagePullSecrets=[{"name":"pull"}]', "--set", "cniBinDir=/usr/libexec/cni"]
    made = chart(*values)
    assert made["ConfigMap", "meshd"]["data"]["meshd.yaml"]["clusterName"] == "other"
    pod = made["DaemonSet", "meshd"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "example/meshd@sha256:1"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    assert paths["cni-bin"] == "/usr/libexec/cni"


def test_agents_are_watched_by_prometheus_where_the_chart_is_told_so() -> None:
    assert ("ServiceMonitor", "meshd") not in chart()
    assert ("ServiceMonitor", "meshd") in chart("--set", "serviceMonitor.enabled=true")


def test_the_meshs_etcd_is_the_same_by_chart_by_kustomize_and_by_meshctl() -> None:
    members = Members("t", {"n1": "192.0.2.1", "n2": "192.0.2.2", "n3": "192.0.2.3"})
    applied = by_name(
        yaml.safe_dump_all(etcd.objects(NAMESPACE, members, "registry.example/meshd-etcd:0.1.0"))
    )
    assert {kind for kind, _ in applied} == {"StatefulSet", "Service", "PodDisruptionBudget"}
    assert not set(applied) & set(chart())
    values = (
        "enabled=true,clustermesh.etcd.members=3,clustermesh.etcd.image=registry.example/meshd-etcd:0.1.0"
    )
    with_etcd = chart("--set", f"clustermesh.etcd.{values}")
    assert {key: with_etcd[key] for key in applied} == applied
    overlay = by_name(run("kubectl", "kustomize", KUBERNETES / "overlays" / "mesh"))
    assert {key: overlay[key] for key in applied} == applied


def test_a_changed_configuration_replaces_agents() -> None:
    def pod(*arguments: str) -> Any:  # Any: JSON
        made = run("helm", *TEMPLATE, *arguments)
        daemon_set = next(each for each in yaml.safe_load_all(made) if each["kind"] == "DaemonSet")
        return daemon_set["spec"]["template"]

    assert pod() == pod()
    assert pod() != pod("--set", "config.logLevel=debug")


@pytest.mark.parametrize(
    "place", ["base", *(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())]
)
def test_an_api_server_takes_what_kustomize_makes(api_server: ApiServerAlone, place: str) -> None:
    made = run("kubectl", "kustomize", KUBERNETES / place)
    api_server.kubectl("apply", "--server-side", "-f", str(KUBERNETES / "base" / "namespace.yaml"))
    dry = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"]
    assert "daemonset.apps/meshd" in api_server.kubectl(*dry, content=made)
