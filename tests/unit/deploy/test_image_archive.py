"""The container image: equal content is equal bytes, and nothing of the machine that made it is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.image import __main__ as building
from scripts.image import archive, debian_root, etcd_part, layer, python_parts
from scripts.image.archive import Image
from scripts.image.debian_root import Debian
from scripts.image.layer import Layer

ROOT = Path(__file__).parents[3]
EPOCH = 86400
IMAGE = Image("meshd", "1.2", "x86_64", EPOCH, {"a": "b"}, ("/run",), {"PATH": "/bin"})


def tree(root: Path, seconds: int, mode: int) -> Path:
    """The same content, made at another time under another umask."""
    (root / "opt" / "deep").mkdir(parents=True)
    (root / "opt" / "deep" / "file").write_text("content")
    (root / "opt" / "link").symlink_to("deep/file")
    program = root / "opt" / "program"
    program.write_text("#!")
    program.chmod(0o700 | mode)
    for path in (root / "opt" / "deep" / "file", program):
        os.utime(path, (seconds, seconds))
    return root


def content(made: Layer) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(Path(made.path).read_bytes())))


def test_the_same_files_are_the_same_layer_whenever_and_by_whomever_they_were_made(tmp_path: Path) -> None:
    one, two = (
        layer.from_directory(
            tree(tmp_path / str(seconds), seconds, mode), ["opt"], tmp_path / f"{seconds}.tar.gz", EPOCH, ""
        )
        for seconds, mode in ((1_700_000_000, 0), (1_800_000_000, 0o055))
    )
    assert one.digest == two.digest
    entries = {entry.name: (entry.mode, entry.mtime, entry.uid) for entry in content(one)}
    assert entries["opt/program"] == (0o755, EPOCH, 0)
    assert entries["opt/deep/file"] == (0o644, EPOCH, 0)


def test_a_layer_says_what_it_is_compressed_and_not(tmp_path: Path) -> None:
    made = layer.from_directory(tree(tmp_path / "a", 1, 0), ["opt"], tmp_path / "layer.tar.gz", EPOCH, "")
    compressed = Path(made.path).read_bytes()
    assert made.digest == f"sha256:{hashlib.sha256(compressed).hexdigest()}"
    assert made.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(compressed)).hexdigest()}"
    assert made.size_bytes == len(compressed)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dev", True),
        ("dev/null", False),
        ("etc/hostname", False),
        ("etc/hosts.allow", True),
        ("etc/resolv.conf", False),
        ("var/log", True),
        ("var/log/wtmp", False),
        ("var/lib/dpkg/status", True),
    ],
)
def test_what_a_runtime_brings_or_a_build_leaves_is_no_part_of_an_image(name: str, wanted: bool) -> None:
    assert layer.is_wanted(name) is wanted


def test_a_tar_keeps_owners_and_modes(tmp_path: Path) -> None:
    source = tmp_path / "source.tar"
    with tarfile.open(source, "w") as given:
        entry = tarfile.TarInfo("./usr/bin/passwd")
        entry.mode, entry.gid, entry.mtime = 0o4755, 42, EPOCH + 5
        given.addfile(entry)
        given.addfile(tarfile.TarInfo("./dev/null"))
    made = layer.from_tar(source, tmp_path / "layer.tar.gz", EPOCH, "")
    entries = [(entry.name, entry.mode, entry.gid, entry.mtime) for entry in content(made)]
    assert entries == [("usr/bin/passwd", 0o4755, 42, EPOCH)]


def test_an_archive_leads_by_digests_from_its_index_to_every_layer(tmp_path: Path) -> None:
    made = layer.from_directory(tree(tmp_path / "a", 1, 0), ["opt"], tmp_path / "layer.tar.gz", EPOCH, "")
    digest = archive.write(tmp_path / "image.tar", IMAGE, [made])
    with tarfile.open(tmp_path / "image.tar") as image:

        def blob(name: str) -> bytes:
            file = image.extractfile(f"blobs/{name.replace(':', '/')}")
            assert file is not None
            found = file.read()
            assert name == f"sha256:{hashlib.sha256(found).hexdigest()}"
            return found

        index_file = image.extractfile("index.json")
        assert index_file is not None
        index = json.loads(index_file.read())
        (described,) = index["manifests"]
        assert described["digest"] == digest
        # What containerd calls it, and what the kubelet asks for when a pod says `meshd:1.2`.
        assert described["annotations"]["io.containerd.image.name"] == "docker.io/library/meshd:1.2"
        manifest = json.loads(blob(digest))
        config = json.loads(blob(manifest["config"]["digest"]))
        assert config["rootfs"]["diff_ids"] == [made.diff_id]
        assert config["architecture"] == "amd64"
        assert [each["digest"] for each in manifest["layers"]] == [made.digest]
        blob(made.digest)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_wheels_are_chosen_for_the_libc_of_the_image(machine: str) -> None:
    named = python_parts.platforms((2, 36), machine)
    assert named[0] == f"manylinux_2_36_{machine}"
    assert f"manylinux_2_17_{machine}" in named
    assert f"manylinux_2_37_{machine}" not in named


def test_a_root_says_which_python_and_libc_it_has(tmp_path: Path) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: python3\nVersion: 3.11.2-1+b1\nDescription: a\n snake: b\n\nPackage: libc6\nVersion: 2.36-9\n"
    )
    assert debian_root.described(tmp_path) == Debian(tmp_path, (3, 11), (2, 36))


def test_where_a_wheel_lay_and_this_machines_launchers_are_forgotten(tmp_path: Path) -> None:
    directory = tmp_path / "meshd-1.dist-info"
    directory.mkdir()
    (directory / "direct_url.json").write_text("{}")
    record = directory / "RECORD"
    kept = "meshd/bin/x.py,sha256=1,2\n"
    record.write_text(f"bin/meshd,sha256=3,4\n{kept}meshd-1.dist-info/direct_url.json,sha256=5,6\n")
    python_parts.forget_this_machine(record)
    assert record.read_text() == kept
    assert not (directory / "direct_url.json").exists()


def stage(dockerfile: str, name: str) -> str:
    """What the stage called ``name`` does."""
    (found,) = (each for each in dockerfile.split("\nFROM ") if each.splitlines()[0].endswith(f" AS {name}"))
    return found


def runtime_packages(dockerfile: str) -> set[str]:
    final = stage(dockerfile, "meshd")
    found = re.search(r"--no-install-recommends ([^\\]+)", final)
    assert found is not None
    return set(found[1].split())


def environment(dockerfile: str) -> set[str]:
    final = stage(dockerfile, "meshd")
    found = re.search(r"^ENV (.+)$", final, re.MULTILINE)
    assert found is not None
    return set(found[1].split())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (runtime_packages, set(debian_root.PACKAGES)),
        (
            environment,
            {
                "PATH=/opt/meshd/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONDONTWRITEBYTECODE=1",
                "LC_ALL=C.UTF-8",
            },
        ),
    ],
)
def test_the_dockerfile_makes_the_same(said: Callable[[str], set[str]], expected: set[str]) -> None:
    assert said((ROOT / "deploy/image/Dockerfile").read_text()) == expected


def test_the_dockerfile_makes_the_image_of_the_meshs_etcd_with_one_layer_more() -> None:
    said = (ROOT / "deploy/image/Dockerfile").read_text()
    made = stage(said, "etcd")
    assert made.startswith("meshd AS etcd\n")
    assert set(re.findall(r"/(\S+) /\S+$", made, re.MULTILINE)) == {str(path) for path in etcd_part.KEPT}
    assert etcd_part.PACKAGE in stage(said, "debian-etcd")
    # Where no target is named, the agent's is built.
    assert said.endswith("\nFROM meshd\n")


def test_the_archive_of_the_meshs_etcd_is_beside_that_of_the_agent() -> None:
    assert building.etcd_beside(Path("/a/meshd-1.2.tar")) == Path("/a/meshd-etcd-1.2.tar")
    assert building.etcd_beside(Path("/a/other.tar")) == Path("/a/meshd-etcd-other.tar")
