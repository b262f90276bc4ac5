"""Kubernetes objects as a lab's API server writes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from meshd.lab import layout
from meshd.lab.api import ClusterApi
from meshd.lab.layout import Places
from meshd.lab.objects import Condition
from meshd.lab.record import Pod
from meshd.lab.spec import DEFAULT

CLUSTER = layout.clusters(DEFAULT)[0]


def _pod(number: int, app: str = "rebel-base") -> Pod:
    return Pod("cm-1", "cm-1-n1", "default", f"{app}-{number}", 9 + number, {"app": app}, (app,))


def _api(tmp_path: Path, *pods: Pod) -> tuple[ClusterApi, Path]:
    places = dataclasses.replace(Places("ml1", Path("/cg")), run_root=tmp_path)
    api = ClusterApi(places, CLUSTER, DEFAULT.services_of("cm-1"))
    api.write_fixed(["default"])
    for pod in pods:
        api.add_pod(pod, CLUSTER.nodes[0].pod_address(pod.host))
    return api, places.manifests("cm-1")


def _slice(directory: Path, family: str) -> list[tuple[str, bool, bool, bool]]:
    read = yaml.safe_load((directory / f"endpointslice_default_rebel-base-{family}.yaml").read_text())
    found = []
    for endpoint in read["endpoints"]:
        is_ = endpoint["conditions"]
        found.append((endpoint["addresses"][0], is_["ready"], is_["serving"], is_["terminating"]))
    return found


def test_a_pod_is_no_endpoint_before_it_is_ready(tmp_path: Path) -> None:
    _made, directory = _api(tmp_path, _pod(1))
    assert _slice(directory, "ipv4") == []


def test_ready_pods_are_endpoints_of_both_families(tmp_path: Path) -> None:
    api, directory = _api(tmp_path, _pod(1))
    api.set_condition([_pod(1)], Condition.READY)
    assert _slice(directory, "ipv4") == [("10.1.1.10", True, True, False)]
    assert _slice(directory, "ipv6") == [("fd00:1:1::a", True, True, False)]


def test_a_deleted_pod_is_terminating_and_still_serving_until_it_leaves_the_slice(tmp_path: Path) -> None:
    api, directory = _api(tmp_path, _pod(1), _pod(2))
    api.set_condition([_pod(1), _pod(2)], Condition.READY)
    api.set_condition([_pod(1)], Condition.TERMINATING)
    assert _slice(directory, "ipv4")[0] == ("10.1.1.10", False, True, True)
    api.remove_from_slices([_pod(1)])
    assert _slice(directory, "ipv4") == [("10.1.1.11", True, True, False)]


def test_a_pod_that_no_selector_names_changes_no_slice(tmp_path: Path) -> None:
    api, directory = _api(tmp_path, _pod(1, "x-wing"))
    before = {path: path.stat().st_mtime_ns for path in directory.glob("endpointslice_*")}
    api.set_condition([_pod(1, "x-wing")], Condition.READY)
    assert {path: path.stat().st_mtime_ns for path in directory.glob("endpointslice_*")} == before


def test_no_unfinished_file_is_left_beside_the_objects(tmp_path: Path) -> None:
    _made, directory = _api(tmp_path, _pod(1))
    names = sorted(path.name for path in directory.iterdir())
    assert names == [
        "endpointslice_default_rebel-base-ipv4.yaml",
        "endpointslice_default_rebel-base-ipv6.yaml",
        "namespace_default.yaml",
        "node_cm-1-n1.yaml",
        "node_cm-1-n2.yaml",
        "pod_default_rebel-base-1.yaml",
        "service_default_rebel-base.yaml",
    ]
