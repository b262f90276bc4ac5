"""Who this node is, and that it is remembered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshd.errors import JournalError
from meshd.kubenode import identity as identities
from meshd.kubenode.identity import Identity, identity_of
from meshd.kubenode.node_object import NodeObject

ADDRESSES = [
    {"type": "InternalIP", "address": "192.0.2.1"},
    {"type": "Hostname", "address": "n1"},
    {"type": "InternalIP", "address": "2001:DB8::1"},
]
RUNTIME = {"containerRuntimeVersion": "containerd://1.6.20"}
USED = Identity(("10.1.0.0/24", "fd00::/64"), ("192.0.2.1",))


def node(spec: object, **status: object) -> NodeObject:
    return msgspec.convert({"metadata": {"name": "n1"}, "spec": spec, "status": status}, NodeObject)


@pytest.mark.parametrize(
    ("spec", "cidrs"),
    [
        ({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]}, ("10.1.0.0/24", "fd00::/64")),
        ({"podCIDR": "10.1.0.0/24"}, ("10.1.0.0/24",)),
    ],
)
def test_a_node_says_its_pod_cidrs_its_addresses_and_its_runtime(spec: object, cidrs: object) -> None:
    found = identity_of(node(spec, addresses=ADDRESSES, nodeInfo=RUNTIME))
    assert found == Identity(cidrs, ("192.0.2.1", "2001:db8::1"), "containerd://1.6.20")  # type: ignore[arg-type] # a table


@pytest.mark.parametrize(
    ("spec", "addresses", "lacks"),
    [
        ({}, ADDRESSES, "spec.podCIDRs"),
        ({"podCIDRs": ["10.1.0.0/24"]}, None, "InternalIP"),
        ({"podCIDRs": ["10.1.0.0/24"]}, [{"type": "ExternalIP", "address": "192.0.2.1"}], "InternalIP"),
        ({"podCIDRs": ["10.1.0.9/24"]}, ADDRESSES, "host bits set"),
    ],
)
def test_what_a_node_lacks_is_said(spec: object, addresses: object, lacks: str) -> None:
    found = identity_of(node(spec, addresses=addresses))
    assert isinstance(found, str)
    assert lacks in found


def test_it_is_remembered(tmp_path: Path) -> None:
    identities.save(tmp_path / "state", USED)
    assert identities.load(tmp_path / "state") == USED


def test_a_state_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(JournalError):
        identities.save(tmp_path / "state", USED)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"pod_cidrs":1}'])
def test_nothing_or_rubbish_is_nobody(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / identities.FILE).write_bytes(content)
    assert identities.load(tmp_path) is None


def test_other_pod_cidrs_are_one_clear_sentence(tmp_path: Path) -> None:
    said = identities.other_pods(USED, Identity(("10.9.0.0/24",), USED.addresses), tmp_path / "node.json")
    assert "10.9.0.0/24" in said
    assert "10.1.0.0/24, fd00::/64" in said
    assert "drain the node, delete" in said
    same = Identity(("fd00::/64", "10.1.0.0/24"), USED.addresses)
    assert identities.other_pods(USED, same, tmp_path) == ""


def test_other_addresses_are_told_apart_from_other_pod_cidrs() -> None:
    other = Identity(USED.pod_cidrs, ("192.0.2.9",))
    assert "192.0.2.9" in identities.other_addresses(USED, other)
    assert identities.other_addresses(USED, USED) == ""
