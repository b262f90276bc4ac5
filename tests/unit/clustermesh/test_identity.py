"""Identities: which labels count, the value that Cilium writes, and refusals."""

from __future__ import annotations

import pytest

from clustermesh.errors import InvalidRecord
from clustermesh.identity_labels import identity_labels
from clustermesh.identity_record import MAX_LABELS_BYTES, Identity, decode_identity
from tests.unit.clustermesh.golden import CILIUM

# As given to Cilium's code in tests/go/cilium.
MANY = {
    "z": "",
    "app": "web",
    "app.kubernetes.io/name": "web",
    "B": "x",
    "a-b": "1",
    "a.b": "2",
    "a": "3",
    "kubernetes.io/hostname": "n1",
    "beta.kubernetes.io/arch": "amd64",
    "node.beta.kubernetes.io/x": "y",
    "statefulset.kubernetes.io/pod-name": "web-0",
    "apps.kubernetes.io/pod-index": "0",
    "batch.kubernetes.io/job-completion-index": "1",
    "batch.kubernetes.io/job-name": "j",
    "batch.kubernetes.io/controller-uid": "u",
    "controller-uid": "u",
    "pod-template-hash": "abc",
    "pod-template-generation": "1",
    "controller-revision-hash": "r",
    "topology.kubernetes.io/zone": "a",
    "k8s.io/x": "y",
    "networking.k8s.io/x": "y",
    "annotation.x": "y",
    "etcd_node": "e",
    "io.kubernetes.container.name": "c",
    "io.kubernetes.pod.namespace": "forged",
    "io.cilium.k8s.policy.cluster": "forged",
    "io.cilium.k8s.namespace.labels.team": "forged",
    "io.cilium.k8s.policy.serviceaccount": "forged",
}
OF_NAMESPACE = {
    "kubernetes.io/metadata.name": "bar",
    "team": "a",
    "pod-security.kubernetes.io/enforce": "baseline",
}
BAZ = "k8s:app=baz;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.kubernetes.pod.namespace=bar;"


def decode(value: bytes | str, name: str = "199472", most: int = 255) -> Identity:
    """As a reader of cluster3 (id 3) would."""
    key = f"cilium/state/identities/v1/id/{name}"
    raw = value.encode() if isinstance(value, str) else value
    return decode_identity(key, raw, name=name, cluster="cluster3", cluster_id=3, max_connected_clusters=most)


def test_the_documented_identity_is_written_and_read() -> None:
    assert identity_labels([("app", "baz")], "cluster3", "bar") == BAZ == CILIUM["identity"]
    assert decode(BAZ) == Identity(199472, BAZ)


def test_the_labels_that_count_are_those_that_count_to_cilium() -> None:
    made = identity_labels(MANY.items(), "cluster3", "bar", OF_NAMESPACE.items(), "default")
    assert made.split(";") == CILIUM["identity-many"].split(";")
    assert "forged" not in made
    assert decode(made).labels == made


def test_the_order_in_which_labels_are_said_does_not_count() -> None:
    backwards = dict(reversed(MANY.items()))
    assert identity_labels(backwards.items(), "c", "n") == identity_labels(MANY.items(), "c", "n")


@pytest.mark.parametrize(
    ("name", "most"), [("196608", 255), ("262143", 255), ("98304", 511), ("131071", 511)]
)
def test_the_first_and_the_last_of_a_cluster_are_its_own(name: str, most: int) -> None:
    assert decode(BAZ, name, most).number == int(name)


@pytest.mark.parametrize(
    ("name", "most"),
    [("196607", 255), ("262144", 255), ("98303", 511), ("131072", 511), ("256", 255), ("0", 255)],
)
def test_what_is_another_clusters_is_refused(name: str, most: int) -> None:
    with pytest.raises(InvalidRecord, match=rf"id: is {name}, not within \d+\.\.\d+ of its cluster"):
        decode(BAZ, name, most)


@pytest.mark.parametrize("name", ["", "x", "-1", "+199472", "0199472", " 199472", "199472/x", "1" * 400, "٣"])
def test_a_key_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(InvalidRecord, match=r"id: .* is not a number"):
        decode(BAZ, name)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (BAZ.replace("cluster3", "cluster4"), "policy.cluster is 'cluster4', expected 'cluster3'"),
        ("k8s:app=baz;", "policy.cluster is 'nothing', expected 'cluster3'"),
        (BAZ + "any:io.cilium.k8s.policy.cluster=cluster4;", "policy.cluster is 'cluster3'"),
        (BAZ[:-1], "not labels that end with semicolons"),
        (BAZ + "label;", "not labels that end with semicolons"),
        ("", "policy.cluster is 'nothing'"),
        (b"\xff\xfe;", "no UTF-8"),
        ("k8s:a=b;" * (MAX_LABELS_BYTES // 8 + 1), "more than the 65536"),
    ],
)
def test_labels_that_are_none_or_another_clusters_are_refused(value: bytes | str, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=f"labels: .*{reason}") as refusal:
        decode(value)
    assert len(refusal.value.reason) < 400


def test_values_may_have_what_separates_keys_and_labels_may_have_no_source() -> None:
    value = "a=b=c:d;io.cilium.k8s.policy.cluster=cluster3;"
    assert decode(value).labels == value
