"""Who is selected for the short circuit, what is remembered of the switch, and what must never change in the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.config_short_circuit import ShortCircuit, check
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.intent import FILE, Intent
from meshd.dataplane.short_circuit.selected_rows import is_on_one_link
from meshd.dataplane.short_circuit.selection import is_selected
from meshd.errors import ConfigError
from meshd.kernel.object import BpfObject
from meshd.model import Namespace, Workload, parse_address
from meshd.state import Mesh

# Sockets that were admitted by any build are found under these by every other.
FROZEN = {
    "short_circuit_sockets": "ebe37852",
    "short_circuit_programs": "3476924b",
    "short_circuit_switch": "e5ba0206",
    "short_circuit_epoch": "e5ba0206",
}


@pytest.mark.parametrize(
    ("pod", "namespace", "default", "expected"),
    [
        (None, None, False, False),
        (None, None, True, True),
        (None, True, False, True),
        (None, False, True, False),
        (True, False, False, True),
        (False, True, True, False),
    ],
)
def test_a_pods_own_word_counts_before_its_namespaces_and_that_before_the_configuration(
    pod: bool | None, namespace: bool | None, default: bool, expected: bool
) -> None:
    mesh = Mesh()
    mesh.listing("manifests")
    mesh.replace("manifests", [Namespace("galaxy", "manifests", short_circuit=namespace)])
    workload = Workload("galaxy", "one", "cni", "/n", short_circuit=pod)
    assert is_selected(mesh, workload, default=default) is expected


def test_nobody_is_selected_who_is_gone() -> None:
    assert not is_selected(Mesh(), None, default=True)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("::1", True), ("fe80::1", True), ("169.254.1.1", True), ("10.0.0.1", False)],
)
def test_addresses_that_every_namespace_has_are_no_nodes(address: str, expected: bool) -> None:
    assert is_on_one_link(parse_address(address)) is expected


def test_what_was_said_of_the_switch_is_known_to_the_next_agent(tmp_path: Path) -> None:
    first = Intent(tmp_path / "state")
    assert first.is_on
    first.set(node=False)
    first.set(cluster=True)
    second = Intent(tmp_path / "state")
    assert (second.node_on, second.cluster_on, second.is_on) == (False, True, False)


def test_what_cannot_be_read_of_the_switch_is_off(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"node": ')
    assert not Intent(tmp_path).is_on


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ShortCircuit(queue_bytes=1), "queueBytes"),
        (ShortCircuit(queue_messages=2000), "queueMessages"),
        (ShortCircuit(watch_s=-1), "watchS"),
        (ShortCircuit(after_packets=256), "afterPackets"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: ShortCircuit, named: str) -> None:
    with pytest.raises(ConfigError, match=f"shortCircuit.{named}"):
        check(options)


def test_what_outlives_every_build_keeps_its_layout() -> None:
    with BpfObject.open() as bpf:
        assert {name: bpf.btf.schema_hash(name) for name in rows.FROZEN} == FROZEN
