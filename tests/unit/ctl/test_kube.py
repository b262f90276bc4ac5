"""``meshctl kube``: what is decided, with values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshd.ctl.kube import facts, manifests, preflight, removal, rollout
from meshd.ctl.kube.findings import Accepted, Facts, Level, Node, ordered, some
from meshd.ctl.kube.looks import Look
from meshd.ctl.kube.manifests import Choice
from meshd.ctl.kube.rollout import Progress

GOOD = Facts(
    version=(1, 36),
    nodes=(
        Node("a", "6.12.3", pod_cidrs=("10.244.1.0/24", "fd00:1::/64"), addresses=("10.0.0.1",), cgroups=2),
        Node("b", "6.1.0-28-amd64", pod_cidrs=("10.244.2.0/24",), addresses=("10.0.0.2",), cgroups=2),
    ),
    service_cidrs=("10.96.0.0/16",),
    daemon_sets=frozenset({"kube-proxy"}),
    api_servers=("10.0.0.1:6443",),
)
A, B = GOOD.nodes
WITHOUT = Accepted(without_kube_proxy=True)


def levels(given: Facts, accepted: Accepted | None = None) -> dict[str, Level]:
    """What is not in order, by concern."""
    found = preflight.findings(given, accepted or Accepted())
    return {each.about: each.level for each in found if each.level is not Level.OK}


def test_a_cluster_with_nothing_in_the_way_is_in_order() -> None:
    assert levels(GOOD) == {}


@pytest.mark.parametrize(
    ("given", "accepted", "expected"),
    [
        (replace(GOOD, version=(1, 29)), Accepted(), {"version": Level.REFUSED}),
        (replace(GOOD, nodes=(A, replace(B, kernel="5.15.0-91"))), Accepted(), {"kernel": Level.REFUSED}),
        (replace(GOOD, nodes=(A, replace(B, kernel="10.0"))), Accepted(), {}),
        (replace(GOOD, nodes=(A, replace(B, kernel=""))), Accepted(), {"kernel": Level.REFUSED}),
        (replace(GOOD, nodes=(A, replace(B, architecture="s390x"))), Accepted(), {"nodes": Level.REFUSED}),
        (replace(GOOD, nodes=()), Accepted(), {"nodes": Level.WARNING}),
        (replace(GOOD, nodes=(A, replace(B, cgroups=1))), Accepted(), {"cgroup v2": Level.WARNING}),
        (replace(GOOD, nodes=(A, replace(B, cgroups=0))), Accepted(), {"cgroup v2": Level.WARNING}),
        (replace(GOOD, nodes=(A, replace(B, pod_cidrs=()))), Accepted(), {"pod CIDRs": Level.REFUSED}),
        (replace(GOOD, service_cidrs=("10.244.0.0/16",)), Accepted(), {"networks": Level.REFUSED}),
        (replace(GOOD, service_cidrs=("10.0.0.0/24",)), Accepted(), {"networks": Level.REFUSED}),
        (replace(GOOD, service_cidrs=("10.244.3.0/24", "fd00:2::/64")), Accepted(), {}),
        (
            replace(GOOD, nodes=(A, replace(B, pod_cidrs=("10.244.1.128/25",)))),
            Accepted(),
            {"networks": Level.REFUSED},
        ),
        (replace(GOOD, peers={"west": ("10.244.0.0/16",)}), Accepted(), {"networks": Level.REFUSED}),
        (replace(GOOD, peers={"west": ("10.96.4.0/24",)}), Accepted(), {"networks": Level.REFUSED}),
        (replace(GOOD, peers={"west": ("10.245.0.0/16", "10.0.0.0/24")}), Accepted(), {}),
        (replace(GOOD, nodes=(A, replace(B, cgroups=1, look=Look()))), Accepted(), {}),
        (replace(GOOD, api_servers=("127.0.0.1:6443",)), Accepted(), {"API server": Level.REFUSED}),
        (replace(GOOD, api_servers=()), Accepted(), {"API server": Level.WARNING}),
        (replace(GOOD, api_servers=(), daemon_sets=frozenset()), WITHOUT, {"API server": Level.REFUSED}),
        (replace(GOOD, daemon_sets=frozenset({"cilium"})), Accepted(), {"network plugin": Level.REFUSED}),
        (
            replace(GOOD, daemon_sets=frozenset({"calico-node"})),
            Accepted(other_cni=True),
            {"network plugin": Level.WARNING},
        ),
        (replace(GOOD, policies={"networkpolicies": ("a/b",)}), Accepted(), {"policies": Level.REFUSED}),
        (replace(GOOD, policies={"networkpolicies": ()}), Accepted(), {}),
        (
            replace(GOOD, policies={"ciliumnetworkpolicies": ("a/b",)}),
            Accepted(unenforced_policies=True),
            {"policies": Level.WARNING},
        ),
        (replace(GOOD, ports=("NodePort a/b",)), Accepted(), {}),
        (
            replace(GOOD, daemon_sets=frozenset(), ports=("NodePort a/b",)),
            WITHOUT,
            {"outside": Level.REFUSED},
        ),
        (
            replace(GOOD, daemon_sets=frozenset(), ports=("NodePort a/b",)),
            replace(WITHOUT, unserved_ports=True),
            {"outside": Level.WARNING},
        ),
        (GOOD, WITHOUT, {"kube-proxy": Level.WARNING}),
    ],
)
def test_each_concern_is_judged_alone(given: Facts, accepted: Accepted, expected: dict[str, Level]) -> None:
    assert levels(given, accepted) == expected


def test_what_refuses_is_read_last() -> None:
    found = ordered(preflight.findings(replace(GOOD, api_servers=(), version=(1, 20)), Accepted()))
    assert [each.about for each in found[-2:]] == ["API server", "version"]


def test_of_many_names_the_first_are_shown_and_the_others_counted() -> None:
    assert some(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("said", "expected"),
    [({"major": "1", "minor": "36"}, (1, 36)), ({"major": "1", "minor": "30+"}, (1, 30))],
)
def test_versions_are_numbers_whatever_distributions_add(
    said: dict[str, str], expected: tuple[int, int]
) -> None:
    assert facts.version_of(said) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": [{"ports": [{"hostPort": 80}]}]}, ["host port of pod a/b"]),
        ({"containers": [{"ports": [{"containerPort": 80}]}]}, []),
        ({"hostNetwork": True, "containers": [{"ports": [{"hostPort": 80}]}]}, []),
    ],
)
def test_host_ports_are_those_of_pods_with_a_network_of_their_own(
    spec: dict[str, Any], expected: list[str]
) -> None:
    pod = {"metadata": {"namespace": "a", "name": "b"}, "spec": spec}
    assert facts.host_ports([pod]) == expected


def test_the_users_configuration_is_merged_and_replaces_agents() -> None:
    def template(**config: object) -> Any:  # Any: JSON
        made = manifests.objects(Choice(config=config))
        return next(each for each in made if each["kind"] == "DaemonSet")["spec"]["template"]

    assert template() == template()
    assert template(kubernetes={"nodePorts": "own"}) != template()
    (said,) = (
        manifests.config_of(each)
        for each in manifests.objects(
            Choice(config={"kubernetes": {"nodePorts": "own"}}, api_servers=["a:1"])
        )
        if each["kind"] == "ConfigMap"
    )
    assert said["kubernetes"] == {"enabled": True, "apiServer": {"endpoints": ["a:1"]}, "nodePorts": "own"}


def test_another_namespace_is_another_everywhere() -> None:
    made = manifests.objects(Choice(namespace="other"))
    assert "meshd-system" not in str(made)
    assert [each["kind"] for each in made][:2] == ["Namespace", "ServiceAccount"]
    assert made[0]["metadata"]["name"] == "other"


def test_what_cleans_a_node_has_of_it_what_the_agent_had_and_then_has_no_rights() -> None:
    agents = next(each for each in manifests.objects(Choice()) if each["kind"] == "DaemonSet")
    made = manifests.cleaning(agents, "image", drop_translated=True)
    assert made["metadata"]["name"] == "meshd-uninstall"
    pod, agent = made["spec"]["template"]["spec"], agents["spec"]["template"]["spec"]["containers"][0]
    (clean,), (done,) = pod["initContainers"], pod["containers"]
    assert [clean[key] for key in ("volumeMounts", "securityContext", "env")] == [
        agent[key] for key in ("volumeMounts", "securityContext", "env")
    ]
    assert clean["command"][2].endswith("meshd --config /etc/meshd/meshd.yaml cleanup --drop-translated")
    assert done["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    # Neither of the two may take the other's pods for its own.
    assert made["spec"]["selector"] != agents["spec"]["selector"]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(seen=True, wanted=2, updated=2, available=2), True),
        (Progress(seen=False, wanted=2, updated=2, available=2), False),
        (Progress(seen=True, wanted=2, updated=1, available=2), False),
        (Progress(seen=True, wanted=2, updated=2, available=1), False),
        (Progress(seen=True, wanted=0, updated=0, available=0), True),
    ],
)
def test_a_rollout_is_done_when_all_nodes_have_what_was_applied_last(
    progress: Progress, expected: bool
) -> None:
    assert progress.is_done is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}}}]},
            "ErrImagePull: no such",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                        "lastState": {"terminated": {"exitCode": 1}},
                    }
                ]
            },
            "CrashLoopBackOff: back-off; it ended with status 1",
        ),
        ({"containerStatuses": [{"state": {"running": {}}}]}, ""),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]},
            "not scheduled: no room",
        ),
    ],
)
def test_a_pod_that_is_not_on_its_way_says_why(status: dict[str, Any], expected: str) -> None:
    assert rollout.trouble({"status": status}) == expected


@pytest.mark.parametrize(
    ("taints", "kept"),
    [
        (None, None),
        ([{"key": "other", "effect": "NoSchedule"}], None),
        ([{"key": removal.TAINT, "effect": "NoSchedule"}], []),
        (
            [{"key": "other", "effect": "NoSchedule"}, {"key": removal.TAINT, "effect": "NoSchedule"}],
            [{"key": "other", "effect": "NoSchedule"}],
        ),
    ],
)
def test_only_our_taint_is_taken_and_only_if_nobody_changed_the_others_meanwhile(
    taints: list[dict[str, str]] | None, kept: list[dict[str, str]] | None
) -> None:
    patch = removal.without_taint({"spec": {"taints": taints} if taints is not None else {}})
    if kept is None:
        assert patch is None
        return
    assert patch == [
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": kept},
    ]


@pytest.mark.parametrize(("reason", "expected"), [("MeshdIsUp", True), ("CalicoIsUp", False)])
def test_a_condition_of_another_plugin_stays(reason: str, expected: bool) -> None:
    node = {"status": {"conditions": [{"type": "NetworkUnavailable", "reason": reason}]}}
    assert removal.has_condition(node) is expected
