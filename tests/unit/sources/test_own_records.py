"""What a node says of itself: its own record, and its pods' addresses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clustermesh import keys
from meshd.model import Identity, Namespace, Node, Workload, parse_address
from meshd.model.cluster import OWN_NODE
from meshd.model.workload import IDENTITIES
from meshd.sources.own_records import (
    identity_labels_of,
    is_of_node,
    is_use_of_node,
    own_node,
    own_records,
    told_identities,
)
from meshd.state import Mesh

FOUND = Node(
    "cm-1",
    "n1",
    OWN_NODE,
    (parse_address("192.168.0.1"), parse_address("fd00::1")),
    ("10.1.1.0/24", "fd01::/64"),
    zone="west-1",
    routing="auto",
    takes_identities=True,
    region="west",
)
POD = Workload("galaxy", "web-1", "cni", "/x", (parse_address("10.1.1.7"), parse_address("fd01::7")))


def mesh(*nodes: Node, pods: tuple[Workload, ...] = (POD,)) -> Mesh:
    made = Mesh()
    for node in nodes:
        made.apply(node.source, [node])
    made.replace("cni", pods)
    return made


def said(of: Mesh) -> dict[str, dict[str, object]]:
    return {key: json.loads(value) for key, value in own_records(of, "cm-1", 1, "n1", {}).items()}


def test_a_node_says_how_it_is_reached_and_where_its_pods_are() -> None:
    records = said(mesh(FOUND))
    node = records[keys.node("cm-1", "n1")]
    assert node["Annotations"] == {"meshd.io/routing": "auto", "meshd.io/vni": "identity"}
    assert node["Labels"] == {
        "topology.kubernetes.io/region": "west",
        "topology.kubernetes.io/zone": "west-1",
    }
    assert node["IPv4AllocCIDR"] == {"IP": "10.1.1.0", "Mask": "////AA=="}
    pod = {"HostIP": "192.168.0.1", "ID": 3, "Key": 0, "Mask": None, "Metadata": ""}
    pod |= {"K8sNamespace": "galaxy", "K8sPodName": "web-1"}
    assert {key: record for key, record in records.items() if "/ip/" in key} == {
        keys.address("10.1.1.7"): {"IP": "10.1.1.7"} | pod,
        keys.address("fd01::7"): {"IP": "fd01::7"} | pod,
    }


def test_a_node_without_an_address_says_nothing_of_its_pods() -> None:
    assert set(said(mesh(replace(FOUND, addresses=())))) == {keys.node("cm-1", "n1")}


def test_what_the_agent_does_not_find_other_sources_may_say() -> None:
    named = Node(
        "cm-1", "n1", "manifests", (parse_address("172.18.0.2"),), ("10.9.0.0/24",), "b", region="north"
    )
    other = Node("cm-1", "n2", "manifests", zone="c", region="east")
    found = replace(FOUND, addresses=(), zone="", region="")
    merged = own_node(mesh(found, named, other), "cm-1", "n1")
    assert merged == replace(FOUND, source="", addresses=named.addresses, zone="b", region="north")


def test_only_addresses_on_this_node_are_its_leftovers() -> None:
    (key,) = (key for key in own_records(mesh(FOUND), "cm-1", 1, "n1", {}) if key.endswith("10.1.1.7"))
    value = own_records(mesh(FOUND), "cm-1", 1, "n1", {})[key]
    elsewhere = replace(FOUND, addresses=(parse_address("192.168.0.2"),))
    assert [is_of_node(node, 1, 255, key, value) for node in (FOUND, elsewhere)] == [True, False]
    assert not is_of_node(FOUND, 1, 255, key, b"{")


LABELLED = replace(POD, source="kubernetes", addresses=(), labels=(("app", "web"),), service_account="sa")
LABELS = (
    "k8s:app=web;k8s:io.cilium.k8s.namespace.labels.team=a;k8s:io.cilium.k8s.policy.cluster=cm-1;"
    "k8s:io.cilium.k8s.policy.serviceaccount=sa;k8s:io.kubernetes.pod.namespace=galaxy;"
)


def labelled() -> Mesh:
    made = mesh(FOUND)
    made.apply("kubernetes", [LABELLED, Namespace("galaxy", "kubernetes", labels=(("team", "a"),))])
    return made


def test_who_a_pod_is_says_the_source_that_knows_its_labels() -> None:
    of = labelled()
    assert identity_labels_of(of, "cm-1") == {("galaxy", "web-1"): LABELS}
    of.apply("manifests", [replace(LABELLED, source="manifests", labels=(("app", "other"),))])
    assert identity_labels_of(of, "cm-1") == {("galaxy", "web-1"): LABELS}
    assert identity_labels_of(mesh(FOUND), "cm-1") == {}


def test_all_addresses_of_a_pod_have_its_identity_and_the_node_says_that_it_uses_it() -> None:
    records = own_records(labelled(), "cm-1", 1, "n1", {LABELS: 65540})
    addresses = [json.loads(records[keys.address(text)])["ID"] for text in ("10.1.1.7", "fd01::7")]
    use = keys.identity_use(LABELS, "192.168.0.1")
    assert (addresses, records[use]) == ([65540, 65540], b"65540")
    assert is_use_of_node(FOUND, use)
    assert not is_use_of_node(replace(FOUND, addresses=(parse_address("192.168.0.2"),)), use)


def test_an_address_waits_for_its_identity_and_has_none_where_it_gets_none() -> None:
    waiting = own_records(labelled(), "cm-1", 1, "n1", {}, {LABELS})
    assert set(waiting) == {keys.node("cm-1", "n1")}
    without = own_records(labelled(), "cm-1", 1, "n1", {})
    assert json.loads(without[keys.address("10.1.1.7")])["ID"] == 3


def test_an_address_that_waits_for_another_identity_is_said_as_before() -> None:
    before = own_records(labelled(), "cm-1", 1, "n1", {"k8s:app=old;": 65540})
    waiting = own_records(labelled(), "cm-1", 1, "n1", {}, {LABELS}, before)
    assert waiting == before


# What the allocator knows of the labels, whether all pods are known, and who the pod and one that no source names are then.
TOLD: dict[str, tuple[dict[str, int], set[str], bool, dict[str, int]]] = {
    "it has a number": ({LABELS: 65541}, set(), False, {"web-1": 65541, "gone": 65540}),
    "it waits for one, and is who it was": ({}, {LABELS}, False, {"web-1": 65540, "gone": 65540}),
    "it gets none": ({}, set(), False, {"gone": 65540}),
    "all pods are known": ({}, {LABELS}, True, {"web-1": 65540}),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_mesh_is_told_who_pods_are(case: str) -> None:
    numbers, pending, all_known, expected = TOLD[case]
    of = labelled()
    of.apply(IDENTITIES, [Identity("galaxy", "web-1", 65540), Identity("galaxy", "gone", 65540)])
    puts, deletes = told_identities(of, "cm-1", numbers, pending, all_known=all_known)
    of.apply(IDENTITIES, puts, deletes)
    assert {one.name: one.number for one in of.identities.values()} == expected
