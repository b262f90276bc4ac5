"""The directory of peers: which file is one, what its text means, and what a fault leaves in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustermesh.channel import TlsFiles, parse_endpoint
from clustermesh.errors import DirectoryUnreadable, OptionsError
from clustermesh.peers import Peer, Scan, read_directory

PLAIN = "endpoints: [http://127.0.0.1:2379]\n"


def read(directory: Path, previous: dict[str, Peer] | None = None) -> Scan:
    """As cluster cm-1 would."""
    return read_directory(directory, "cm-1", previous or {})


def test_every_regular_file_with_endpoints_is_a_peer_but_our_own_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "cm-2").write_text(PLAIN)
    (tmp_path / "cm-1").write_text(PLAIN)
    (tmp_path / "common-etcd-client.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "cm-3").mkdir()
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "cm-4").write_text(PLAIN)
    (tmp_path / "cm-4").symlink_to("..data/cm-4")  # as Kubernetes mounts a Secret
    scan = read(tmp_path)
    assert set(scan.peers) == {"cm-2", "cm-4"}
    assert scan.refused == {}


def test_the_file_says_how_to_connect(tmp_path: Path) -> None:
    (tmp_path / "cm-2").write_text(
        "endpoints:\n- https://cm-2.mesh.cilium.io:32379\n- https://10.0.0.2\n"
        "trusted-ca-file: /ca.crt\ncert-file: /c.crt\nkey-file: /c.key\nusername: remote\npassword: secret\n"
        "cilium-host-aliases:\n- {hostname: cm-2.mesh.cilium.io, ips: [172.18.0.5, 172.18.0.6]}\n"
    )
    peer = read(tmp_path).peers["cm-2"]
    assert [end.target for end in peer.endpoints] == [
        "ipv4:172.18.0.5:32379,172.18.0.6:32379",
        "dns:///10.0.0.2:2379",
    ]
    assert [end.host for end in peer.endpoints] == ["cm-2.mesh.cilium.io", "10.0.0.2"]
    assert peer.tls == TlsFiles(Path("/ca.crt"), Path("/c.crt"), Path("/c.key"))
    assert peer.credentials is not None
    assert (peer.credentials.user, peer.credentials.password) == ("remote", "secret")
    assert "secret" not in repr(peer)


BROKEN = {
    "not YAML": ("endpoints: [\n", "is not YAML"),
    "a list": ("- endpoints: x\n", "is not a mapping"),
    "no URL": ("endpoints: []\n", "endpoints: expected a list of URLs"),
    "an unknown scheme": ("endpoints: [ftp://x]\n", "expected http://HOST:PORT"),
    "a port that is none": ("endpoints: [http://x:99999]\n", "http://x:99999"),
    "a certificate without a key": (PLAIN + "cert-file: /c.crt\n", "needs its key"),
    "a path that is none": (PLAIN + "cert-file: [1]\n", "cert-file: expected a path"),
    "verification switched off": (PLAIN + "insecure-skip-tls-verify: true\n", "is not verified"),
    "a user without a password": (PLAIN + "username: x\n", "expected two strings"),
    "aliases that are none": (PLAIN + "cilium-host-aliases: [x]\n", "cilium-host-aliases"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named_its_last_good_version_stays_and_others_are_read(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "cm-2").write_text(PLAIN)
    good = dict(read(tmp_path).peers)
    (tmp_path / "cm-2").write_text(text)
    (tmp_path / "cm-3").write_text(PLAIN)
    scan = read(tmp_path, good)
    assert scan.peers["cm-2"] == good["cm-2"]
    assert set(scan.peers) == {"cm-2", "cm-3"}
    assert reason in scan.refused["cm-2"].reason


@pytest.mark.parametrize("name", ["Upper", "default", "a" * 33, "dot.ted", "-x"])
def test_a_file_whose_name_cannot_be_that_of_a_cluster_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PLAIN)
    scan = read(tmp_path)
    assert scan.peers == {}
    assert list(scan.refused) == [name]


def test_an_unchanged_file_is_the_same_peer_and_a_changed_one_another(tmp_path: Path) -> None:
    (tmp_path / "cm-2").write_text(PLAIN)
    first = dict(read(tmp_path).peers)
    assert read(tmp_path, first).peers["cm-2"] is first["cm-2"]
    (tmp_path / "cm-2").write_text(PLAIN.replace("2379", "2380"))
    assert read(tmp_path, first).peers["cm-2"] != first["cm-2"]


def test_a_directory_that_is_missing_or_a_file_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(DirectoryUnreadable, match="the peers known so far stay"):
            read(path)


def test_a_dangling_link_is_no_peer_and_no_fault(tmp_path: Path) -> None:
    (tmp_path / "cm-2").symlink_to("nowhere")
    assert read(tmp_path) == Scan()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a:1", "dns:///a:1"),
        ("a:1", "dns:///a:1"),
        ("http://[fd00::1]:2379", "dns:///[fd00::1]:2379"),
        ("http://a/", "dns:///a:2379"),
    ],
)
def test_endpoints_are_dialled_as_written(url: str, target: str) -> None:
    assert parse_endpoint(url).target == target


@pytest.mark.parametrize("url", ["", "http://", "unix:///run/x", "http://a/path", "http://a:b"])
def test_what_is_no_endpoint_is_refused_by_its_text(url: str) -> None:
    with pytest.raises(OptionsError, match="endpoint"):
        parse_endpoint(url)
