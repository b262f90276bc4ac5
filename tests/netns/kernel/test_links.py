"""Links on a scratch cgroup and on veth devices: attach, update, pin, open again, detach."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from meshd.errors import KernelError
from meshd.kernel import cgroup, netlink
from meshd.kernel.links import AttachType, Link, attach_cgroup
from meshd.kernel.object import BpfObject, Loaded
from tests.netns.conftest import NetnsPair

FIRST, SECOND = 1, 7
Inside = Callable[[Path], AbstractContextManager[None]]


def hits(loaded: Loaded, kind: int) -> int:
    value = loaded.maps["hits"].lookup(kind.to_bytes(4, "little"))
    assert value is not None
    return sum(memoryview(value).cast("Q"))


def connect() -> int:
    """One UDP connect to loopback; its errno or 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        return client.connect_ex(("127.0.0.1", 9))


def attach(loaded: Loaded, path: Path) -> Link:
    program = loaded.programs["count_connect"]
    return attach_cgroup(program.fd, path, program.attach_type, "connect4")


def test_an_attached_program_runs_for_its_cgroup_only(
    probe: Loaded, scratch_cgroup: Path, inside: Inside
) -> None:
    link = attach(probe, scratch_cgroup)
    connect()
    outside = hits(probe, FIRST)
    with inside(scratch_cgroup):
        connect()
    link.close()
    assert (outside, hits(probe, FIRST)) == (0, 1)


def test_a_global_changes_what_the_attached_program_does(
    probe_object: Path, scratch_cgroup: Path, inside: Inside
) -> None:
    with BpfObject.open(probe_object) as bpf:
        bpf.set_globals({"refused_port": 9})
        loaded = bpf.load()
    link = attach(loaded, scratch_cgroup)
    with inside(scratch_cgroup):
        refusal = connect()
    link.close()
    loaded.close()
    assert refusal == errno.EPERM


def test_update_swaps_the_program_in_place(probe: Loaded, scratch_cgroup: Path, inside: Inside) -> None:
    link = attach(probe, scratch_cgroup)
    before = link.info()
    link.update(probe.programs["count_connect_second"].fd)
    with inside(scratch_cgroup):
        connect()
    after = link.info()
    link.close()
    assert (hits(probe, FIRST), hits(probe, SECOND)) == (0, 1)
    assert after.link_id == before.link_id
    assert after.program_id == probe.programs["count_connect_second"].info().program_id


def test_info_names_program_attach_type_and_cgroup(probe: Loaded, scratch_cgroup: Path) -> None:
    link = attach(probe, scratch_cgroup)
    info = link.info()
    link.close()
    assert info.program_id == probe.programs["count_connect"].info().program_id
    assert (info.attach_type, info.cgroup_id) == (
        AttachType.CGROUP_CONNECT4,
        cgroup.cgroup_id(scratch_cgroup),
    )


def test_a_pinned_link_outlives_its_descriptor(
    probe: Loaded, scratch_cgroup: Path, inside: Inside, bpffs: Path
) -> None:
    link = attach(probe, scratch_cgroup)
    link.pin(bpffs / "connect4")
    link.close()
    with inside(scratch_cgroup):
        connect()
    again = Link.open_pinned(bpffs / "connect4")
    assert again is not None
    assert hits(probe, FIRST) == 1
    again.close()


def test_a_link_that_is_not_pinned_goes_with_its_descriptor(
    probe: Loaded, scratch_cgroup: Path, inside: Inside
) -> None:
    attach(probe, scratch_cgroup).close()
    with inside(scratch_cgroup):
        connect()
    assert hits(probe, FIRST) == 0


def test_detach_takes_the_program_off_while_the_pin_stands(
    probe: Loaded, scratch_cgroup: Path, inside: Inside, bpffs: Path
) -> None:
    link = attach(probe, scratch_cgroup)
    link.pin(bpffs / "connect4")
    link.detach()
    link.detach()
    with inside(scratch_cgroup):
        connect()
    assert hits(probe, FIRST) == 0
    assert link.info().cgroup_id == 0
    link.close()


def test_a_link_that_was_never_pinned_is_absent(bpffs: Path) -> None:
    assert Link.open_pinned(bpffs / "none") is None


def test_a_program_of_another_type_is_refused_by_name(probe: Loaded, scratch_cgroup: Path) -> None:
    with pytest.raises(KernelError, match="attach wrong-hook") as refused:
        attach_cgroup(
            probe.programs["pass_frame"].fd, scratch_cgroup, AttachType.CGROUP_CONNECT4, "wrong-hook"
        )
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("program", "attach_type", "kind"),
    [
        pytest.param("pass_packet", AttachType.TCX_INGRESS, FIRST, marks=pytest.mark.needs("tcx")),
        ("pass_frame", AttachType.XDP, SECOND),
    ],
)
def test_a_device_link_sees_the_packets_of_its_device(
    probe: Loaded, netns_pair: NetnsPair, program: str, attach_type: AttachType, kind: int
) -> None:
    server, device = netns_pair.server, netns_pair.server_device
    index = netlink.link_index(server, device)
    link = server.run(lambda: Link.create(probe.programs[program].fd, index, attach_type, device))
    assert (link.info().ifindex, link.info().attach_type) == (index, attach_type)
    with (
        server.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        netns_pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("10.77.0.2", 9000))
        receiver.settimeout(5)
        sender.sendto(b"hello", ("10.77.0.2", 9000))
        assert receiver.recv(16) == b"hello"
    link.close()
    assert hits(probe, kind) > 0
