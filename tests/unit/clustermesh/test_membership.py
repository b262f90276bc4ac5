"""The files that make a cluster part of a mesh."""

from __future__ import annotations

import datetime
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from clustermesh import membership
from clustermesh.authority import Authority, Pair
from clustermesh.errors import MembershipError
from clustermesh.invitation import Cluster, Invitation, parse_invitation, render_invitation
from clustermesh.peers import read_directory

YEAR = datetime.timedelta(days=365)


def cluster(number: int, directory: Path) -> Cluster:
    return Cluster(
        f"cm-{number}",
        number,
        (ip_network(f"10.{number}.0.0/16"), ip_network(f"fd00:{number}::/32")),
        (f"https://192.0.2.{number}:2379",),
        directory,
    )


@pytest.fixture
def one(tmp_path: Path) -> Path:
    membership.init(tmp_path / "cm-1", cluster(1, tmp_path / "cm-1"))
    return tmp_path / "cm-1"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    membership.init(tmp_path / "cm-2", cluster(2, Path("/etc/meshd/clustermesh")))
    return tmp_path / "cm-2"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_keys_are_their_owners_alone_and_the_authoritys_is_in_no_directory_of_nodes(one: Path) -> None:
    files = [path for path in one.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files if b"PRIVATE KEY" in path.read_bytes()} == {0o600}
    authority = (one / "authority" / "ca.key").read_bytes()
    assert [str(path.relative_to(one)) for path in files if path.read_bytes() == authority] == [
        "authority/ca.key"
    ]


def test_init_is_done_once_and_not_over_another_cluster(one: Path) -> None:
    before = contents(one)
    assert not membership.init(one, cluster(1, one))
    with pytest.raises(MembershipError, match="has another cluster: cm-1, id 1"):
        membership.init(one, cluster(3, one))
    assert contents(one) == before


def test_init_that_was_interrupted_is_done_again(one: Path) -> None:
    (one / "cluster.yaml").unlink()
    assert membership.init(one, cluster(1, one))
    assert (one / "etcd" / "ca.crt").read_bytes() == (one / "authority" / "ca.crt").read_bytes()


def test_a_cluster_that_was_joined_is_a_peer_with_its_id_and_networks(one: Path, two: Path) -> None:
    text = render_invitation(membership.invite(one, "cm-2", YEAR))
    assert membership.join(two, parse_invitation(text))
    peer = read_directory(two / "peers", "cm-2", {}).peers["cm-1"]
    assert peer.pin == membership.peers(two)["cm-1"]
    assert (peer.pin.cluster_id, peer.pin.networks) == (1, cluster(1, one).networks)
    assert peer.tls is not None
    # Where nodes see them, not where they were written.
    assert str(peer.tls.certificate) == "/etc/meshd/clustermesh/peers/cm-1.crt"
    assert not membership.join(two, parse_invitation(text))


def test_the_certificate_of_an_invitation_names_who_reads(one: Path) -> None:
    invitation = membership.invite(one, "cm-2", YEAR)
    assert invitation.trusted == (one / "authority" / "ca.crt").read_bytes()
    authority = Authority.load(
        Pair((one / "authority" / "ca.crt").read_bytes(), (one / "authority" / "ca.key").read_bytes())
    )
    assert authority.has_signed(invitation.pair.certificate)
    assert not Authority.make("another").has_signed(invitation.pair.certificate)


def invitation(directory: Path, **changes: object) -> Invitation:
    made = membership.invite(directory, "cm-2", YEAR)
    return replace(made, cluster=replace(made.cluster, **changes))  # type: ignore[arg-type] # fields of a Cluster


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "cm-2"}, "the invitation is of a cluster that is called cm-2, like this one"),
        ({"cluster_id": 2}, "cm-1 has the cluster id 2, like cm-2"),
        ({"cluster_id": 0}, r"cluster id 0 is not within 1\.\.511"),
        (
            {"networks": (ip_network("10.2.3.0/24"),)},
            r"10\.2\.3\.0/24 of cm-1 overlaps 10\.2\.0\.0/16 of cm-2",
        ),
        ({"networks": ()}, "networks: none"),
        ({"endpoints": ("http://192.0.2.1:2379",)}, "endpoints: expected https"),
        ({"name": "../cm-1"}, "cluster name '../cm-1' must consist of"),
    ],
)
def test_an_invitation_that_does_not_fit_changes_nothing(
    one: Path, two: Path, changes: dict[str, object], reason: str
) -> None:
    before = contents(two)
    with pytest.raises(MembershipError, match=reason):
        membership.join(two, invitation(one, **changes))
    assert contents(two) == before


def test_an_invitation_for_another_cluster_is_refused(one: Path, tmp_path: Path) -> None:
    membership.init(tmp_path / "cm-3", cluster(3, tmp_path / "cm-3"))
    with pytest.raises(MembershipError, match="the invitation of cm-1 is for cm-2, this is cm-3"):
        membership.join(tmp_path / "cm-3", invitation(one))


def test_two_peers_never_overlap(one: Path, two: Path) -> None:
    membership.join(two, invitation(one))
    with pytest.raises(MembershipError, match=r"10\.1\.0\.0/17 of cm-9 overlaps 10\.1\.0\.0/16 of cm-1"):
        membership.join(
            two, invitation(one, name="cm-9", cluster_id=9, networks=(ip_network("10.1.0.0/17"),))
        )


def test_leaving_removes_every_file_of_the_peer(one: Path, two: Path) -> None:
    before = contents(two)
    membership.join(two, invitation(one))
    assert membership.leave(two, "cm-1")
    assert contents(two) == before
    assert not membership.leave(two, "cm-1")


@pytest.mark.parametrize("text", [b"", b"[]", b"name: cm-1\n", b"\x00", b"{"])
def test_what_is_no_invitation_is_refused(text: bytes) -> None:
    with pytest.raises(MembershipError, match="invitation"):
        parse_invitation(text)


def test_an_authority_is_trusted_before_it_signs_and_the_old_one_until_nothing_is_of_it(one: Path) -> None:
    old = (one / "authority" / "ca.crt").read_bytes()
    membership.begin_rotation(one)
    new = (one / "authority" / "ca.crt").read_bytes()
    assert new != old
    assert (one / "etcd" / "ca.crt").read_bytes() == (one / "client" / "ca.crt").read_bytes() == new + old
    with pytest.raises(MembershipError, match="is being rotated already"):
        membership.begin_rotation(one)
    with pytest.raises(MembershipError, match=r"etcd\.crt is of the old authority"):
        membership.finish_rotation(one)
    membership.rotate_certificates(one)
    membership.finish_rotation(one)
    assert (one / "etcd" / "ca.crt").read_bytes() == (one / "client" / "ca.crt").read_bytes() == new
    assert {str(each.path) for each in membership.certificates(one)} == {
        *("authority/ca.crt", "client/admin.crt", "client/ca.crt", "etcd/ca.crt", "etcd/etcd.crt"),
    }


def test_the_client_file_is_one_that_etcd_clients_read(two: Path) -> None:
    document = yaml.safe_load((two / "client" / "etcd.yaml").read_text())
    assert document == {
        "endpoints": ["https://192.0.2.2:2379"],
        "trusted-ca-file": "/etc/meshd/clustermesh/client/ca.crt",
        "cert-file": "/etc/meshd/clustermesh/client/admin.crt",
        "key-file": "/etc/meshd/clustermesh/client/admin.key",
    }
