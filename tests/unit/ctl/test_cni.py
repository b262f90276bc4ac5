"""`meshctl cni`: the runtime's configuration is theirs or ours, and never neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from build_backend import cni_shim
from meshd.ctl import containerd as running_containerd
from meshd.ctl.main import main
from meshd.runtime import cni_files, cni_versions
from meshd.runtime.cni_files import CONFLIST, Places, configurations

THEIRS = {"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "bridge", "bridge": "cni0"}]}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "net.d", tmp_path / "bin")
    made.conf_dir.mkdir()
    cni_shim.build()
    return made


@pytest.fixture
def config(tmp_path: Path, places: Places) -> Path:
    path = tmp_path / "config.yaml"
    options = {
        "podCidrs": ["10.1.1.0/24"],
        "socket": str(tmp_path / "cni.sock"),
        "confDir": str(places.conf_dir),
        "binDir": str(places.bin_dir),
    }
    path.write_text(json.dumps({"nodeName": "n1", "cni": options}))
    return path


def put(places: Places, name: str, content: object = THEIRS) -> Path:
    path = places.conf_dir / name
    path.write_text(json.dumps(content))
    return path


def in_force(places: Places) -> str:
    return configurations(places.conf_dir)[0].name


def meshctl(config: Path, *words: str) -> int:
    return main(["cni", *words, "--config", str(config)])


def test_what_is_installed_is_the_plugin_and_a_conflist_that_names_the_socket(
    places: Places, config: Path, tmp_path: Path
) -> None:
    assert meshctl(config, "install", "--cni-version", "1.1.0") == 0
    assert places.plugin.read_bytes() == cni_files.packaged_plugin()
    assert places.plugin.stat().st_mode & 0o777 == 0o755
    said = json.loads(places.conflist.read_text())
    assert (said["cniVersion"], said["plugins"][0]["socket"]) == ("1.1.0", str(tmp_path / "cni.sock"))


@pytest.mark.parametrize("name", ["10-bridge.conflist", "00-a.conf", "00-meshc.json"])
def test_install_takes_over_and_uninstall_gives_back_exactly_what_was_there(
    places: Places, config: Path, name: str
) -> None:
    before = put(places, name).read_bytes()
    for _ in range(2):
        assert meshctl(config, "install") == 0
        assert in_force(places) == CONFLIST
    for _ in range(2):
        assert meshctl(config, "uninstall", "--leave-running") == 0
        assert [path.name for path in places.conf_dir.iterdir()] == [name]
        assert (places.conf_dir / name).read_bytes() == before
        assert not places.plugin.exists()


@pytest.mark.parametrize("name", ["10-bridge.conflist", "00-a.conf"])
def test_chained_keeps_the_plugins_that_were_in_force_before_it(
    places: Places, config: Path, name: str
) -> None:
    put(places, name)
    put(places, "20-other.conf", {"cniVersion": "1.0.0", "name": "other", "type": "other"})
    for _ in range(2):
        assert meshctl(config, "install", "--chained") == 0
        said = json.loads(places.conflist.read_text())
        assert said["name"] == "bridge"
        assert [plugin["type"] for plugin in said["plugins"]] == ["bridge", "meshd-cni"]


def test_what_cannot_be_installed_is_said_and_nothing_is_changed(
    places: Places, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert meshctl(config, "install", "--chained") == 1
    assert "no configuration" in capsys.readouterr().err
    broken = put(places, "10-broken.conf", {"name": "x"})
    assert meshctl(config, "install", "--chained") == 1
    assert str(broken) in capsys.readouterr().err
    config.write_text('{"nodeName": "n1"}')
    assert meshctl(config, "install", "--conf-dir", str(places.conf_dir)) == 1
    assert "cni.podCidrs" in capsys.readouterr().err
    assert [path.name for path in places.conf_dir.iterdir()] == ["10-broken.conf"]


def test_status_is_0_only_where_a_new_pod_would_be_meshds(
    places: Places, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    assert meshctl(config, "status") == 1
    meshctl(config, "install")
    assert meshctl(config, "status") == 1
    assert "does not answer" in capsys.readouterr().out
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cni.sock"))
        listener.listen()
        assert meshctl(config, "status") == 0
        put(places, "00-a.conf")
        assert meshctl(config, "status") == 1
        meshctl(config, "install")
        places.plugin.write_bytes(b"another")
        assert meshctl(config, "status") == 1
    assert "another build" in capsys.readouterr().out


class Crash(Exception):
    """The process is gone."""


Step = Callable[[], object]


def crashing_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The operating system's changes of names count; before the ``step``-th the process dies."""
    left = [step]
    for name in ("replace", "rename", "unlink"):
        real = getattr(Path, name)

        def change(
            path: Path, *arguments: object, real: Callable[..., object] = real, **more: object
        ) -> object:
            if not path.exists():
                return real(path, *arguments, **more)
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(path, *arguments, **more)

        monkeypatch.setattr(Path, name, change)


@pytest.mark.parametrize("theirs", ["10-bridge.conflist", "00-a.conf"])
@pytest.mark.parametrize("command", ["install", "uninstall"])
@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_any_step_leaves_a_whole_configuration_in_force(
    places: Places, monkeypatch: pytest.MonkeyPatch, theirs: str, command: str, step: int
) -> None:
    put(places, theirs)
    ours = cni_files.conflist("1.0.0", Path("/run/x.sock"))
    steps: dict[str, Step] = {
        "install": lambda: cni_files.install(places, b"plugin", ours),
        "uninstall": lambda: cni_files.uninstall(places),
    }
    if command == "uninstall":
        steps["install"]()
    with monkeypatch.context() as patched:
        crashing_at(patched, step)
        try:
            steps[command]()
            finished = True
        except Crash:
            finished = False
    name = in_force(places)
    assert name in {theirs, CONFLIST}
    if name == CONFLIST:
        assert (places.conf_dir / name).read_bytes() == ours
        assert places.plugin.read_bytes() == b"plugin"
    else:
        assert json.loads((places.conf_dir / name).read_text()) == THEIRS
    if finished:
        assert name == (CONFLIST if command == "install" else theirs)
    steps[command]()
    assert in_force(places) == (CONFLIST if command == "install" else theirs)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.0.0"),
        ("containerd github.com/containerd/containerd v1.7.27 05044ec0a9a7", "1.0.0"),
        ("containerd github.com/containerd/containerd/v2 v2.0.5 fb4c30d4ede3", "1.1.0"),
        ("something else", "1.0.0"),
    ],
)
def test_the_version_is_the_newest_that_containerd_takes(said: str, version: str) -> None:
    assert cni_versions.newest_for_containerd(said) == version


def put_plugin(places: Places, name: str, *versions: str) -> Path:
    """A program that says it takes ``versions``."""
    places.bin_dir.mkdir(exist_ok=True)
    path = places.bin_dir / name
    said = json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions})
    path.write_text(f"#!/bin/sh\n[ $CNI_COMMAND = VERSION ] && echo '{said}'\n")
    path.chmod(0o755)
    return path


def test_portmap_follows_where_it_is_there_and_gets_the_ports_and_meshd_hears_of_limits(
    places: Places, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert meshctl(config, "install") == 0
    assert "there is no portmap" in capsys.readouterr().out
    put_plugin(places, "portmap", "1.0.0")
    assert meshctl(config, "install") == 0
    ours, portmap = json.loads(places.conflist.read_text())["plugins"]
    assert ours["capabilities"] == {"ips": True, "bandwidth": True}
    assert (portmap["type"], portmap["capabilities"]) == ("portmap", {"portMappings": True})


@pytest.mark.parametrize(
    ("containerd", "plugins", "version", "said"),
    [
        ("v2.1.0", [("1.0.0", "1.1.0")], "1.1.0", ""),
        ("v2.1.0", [("0.4.0", "1.0.0")], "1.0.0", "plugin0 takes no newer one"),
        ("v2.1.0", [("1.0.0", "1.1.0"), ("0.3.1", "0.4.0")], "0.4.0", "plugin1 takes no newer one"),
        ("v1.7.27", [("1.0.0", "1.1.0")], "1.0.0", "v1.7.27"),
        ("", [], "1.0.0", "not found"),
    ],
)
def test_the_version_is_one_that_everybody_takes(
    places: Places, containerd: str, plugins: list[tuple[str, ...]], version: str, said: str
) -> None:
    paths = [put_plugin(places, f"plugin{number}", *each) for number, each in enumerate(plugins)]
    found, reason = cni_versions.newest(containerd, paths)
    assert (found, said in reason) == (version, True)


def test_a_version_that_is_asked_for_is_written_whatever_the_others_take(
    places: Places, config: Path
) -> None:
    put_plugin(places, "portmap", "1.0.0")
    assert meshctl(config, "install", "--cni-version", "1.1.0") == 0
    assert json.loads(places.conflist.read_text())["cniVersion"] == "1.1.0"


def test_a_plugin_that_cannot_be_asked_takes_nothing(places: Places) -> None:
    places.bin_dir.mkdir()
    (places.bin_dir / "broken").write_text("no program")
    assert cni_versions.supported(places.bin_dir / "broken") == frozenset()


@pytest.mark.parametrize(
    ("message", "said"), [(b"\x0a\x06v2.0.5\x12\x03abc", "v2.0.5"), (b"", ""), (b"\x12\x01x", "")]
)
def test_containerds_answer_names_its_version_first(message: bytes, said: str) -> None:
    assert running_containerd.first_string(message) == said


def test_a_containerd_that_runs_is_asked_itself(tmp_path: Path) -> None:
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: b"\x0a\x06v2.9.9"
    )
    service = grpc.method_handlers_generic_handler(
        "containerd.services.version.v1.Version", {"Version": handler}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[service])
    server.add_insecure_port(f"unix:{tmp_path}/containerd.sock")
    server.start()
    try:
        assert running_containerd.containerd_version(tmp_path / "containerd.sock") == "v2.9.9"
    finally:
        server.stop(None).wait()
