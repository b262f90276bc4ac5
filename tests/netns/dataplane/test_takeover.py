"""Rows of another build's maps are taken over, from kernel to kernel, by the names of their fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.dataplane.takeover import find
from meshd.kernel import pins
from meshd.kernel.btf import Btf
from meshd.kernel.object import PACKAGED, BpfObject, Loaded
from meshd.state import Mesh
from tests import another_build
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service, serving


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """For pins."""
    pins.mount_bpffs(tmp_path / "bpf")
    yield tmp_path / "bpf"
    pins.unmount_bpffs(tmp_path / "bpf")


def load(path: Path, directory: Path) -> tuple[Loaded, Btf]:
    """The maps of a build, and no programs."""
    with BpfObject.open(path) as bpf:
        bpf.load_only([])
        return bpf.load(directory), bpf.btf


def flow(number: int) -> tuple[TupleRow, FlowRow]:
    source, destination = (AddressRow(number.to_bytes(16, "big")), AddressRow(bytes(15) + b"\1"))
    ends = TupleRow(source, destination, number % 65536, 80, 6)
    return ends, FlowRow(number, ends, source, 16)


@pytest.mark.parametrize("count", [5_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_every_flow_is_the_same_in_the_other_layout_and_back(directory: Path, count: int) -> None:
    flows = dict(flow(number) for number in range(1, count + 1))
    for turn, path in enumerate((PACKAGED, another_build.other_object(), PACKAGED)):
        loaded, btf = load(path, directory)
        keys, rows = btf.codec("tuple", TupleRow), btf.codec("flow", FlowRow)
        takeover = find(directory, btf, loaded.maps, loaded.reused)
        if turn == 0:
            loaded.maps["flows"].update_batch({keys.encode(k): rows.encode(v) for k, v in flows.items()})
        takeover.copy(["flows"])
        found = {keys.decode(k): rows.decode(v) for k, v in loaded.maps["flows"].items()}
        takeover.finish(loaded.maps)
        loaded.close()
        assert found == flows
        assert len(list(directory.glob("flows_*"))) == 1


def test_a_second_look_brings_what_changed_since_leaves_what_ours_wrote_and_revives_nothing(
    directory: Path,
) -> None:
    before, btf = load(PACKAGED, directory)
    after, other = load(another_build.other_object(), directory)
    takeover = find(directory, other, after.maps, after.reused)
    first, second, third = flow(1), flow(2), flow(3)

    def put(loaded: Loaded, types: Btf, ends: TupleRow, row: FlowRow) -> None:
        key, value = types.codec("tuple", TupleRow).encode(ends), types.codec("flow", FlowRow).encode(row)
        loaded.maps["flows"].update(key, value)

    def end(loaded: Loaded, types: Btf, ends: TupleRow) -> None:
        assert loaded.maps["flows"].delete(types.codec("tuple", TupleRow).encode(ends))

    for each in (first, flow(4), flow(5), flow(6), flow(7)):
        put(before, btf, *each)
    takeover.copy(["flows"], again=True)
    put(before, btf, *second)
    put(before, btf, *third)
    put(after, other, third[0], third[1]._replace(flags=512))
    end(before, btf, flow(4)[0])
    end(after, other, flow(5)[0])
    # Begun anew between the same ends, and by the newer programs as well.
    put(before, btf, flow(6)[0], flow(6)[1]._replace(flags=32))
    put(before, btf, flow(7)[0], flow(7)[1]._replace(flags=32))
    put(after, other, flow(7)[0], flow(7)[1]._replace(flags=64))
    takeover.copy(["flows"])
    rows = other.codec("flow", FlowRow)
    flags = sorted(
        (rows.decode(value).last_seen_ns, rows.decode(value).flags)
        for _, value in after.maps["flows"].items()
    )
    takeover.close()
    before.close()
    after.close()
    assert flags == [(1, 16), (2, 16), (3, 512), (6, 32), (7, 64)]


def test_a_start_that_died_before_its_programs_were_on_is_gone_on_with(directory: Path) -> None:
    before, btf = load(PACKAGED, directory)
    keys, rows = btf.codec("tuple", TupleRow), btf.codec("flow", FlowRow)
    ends, row = flow(1)
    before.maps["flows"].update(keys.encode(ends), rows.encode(row))
    dead, _ = load(another_build.other_object(), directory)
    dead.close()
    after, other = load(another_build.other_object(), directory)
    takeover = find(directory, other, after.maps, after.reused)
    takeover.copy(["flows"])
    found = [other.codec("flow", FlowRow).decode(value) for _, value in after.maps["flows"].items()]
    takeover.close()
    before.close()
    after.close()
    assert found == [row]


async def test_services_are_answered_and_clients_keep_their_backends_before_any_source_has_spoken(
    node: Node,
) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent():
            node.mesh.replace(
                "manifests", [service(affinity_timeout_s=600), backends(*map(backend, BACKENDS4))]
            )
            await node.settle()
            chosen = node.ask(VIP4)
        for build in (another_build.other_object(), None):
            node.mesh = Mesh()
            node.mesh.listing("manifests")
            async with node.agent(bpf_object=build):
                assert [node.ask(VIP4) for _ in range(20)] == [chosen] * 20
