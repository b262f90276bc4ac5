"""The look for what a run left behind, tried on whole pytest runs of their own that do leave something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gate.left_behind import changed, named_after

ROOT = Path(__file__).parents[2]
SLEEPER = "import subprocess; open('pid', 'w').write(str(subprocess.Popen(['sleep', '300']).pid))"


def run(directory: Path, body: str, before: str = "", arguments: str = "run_name") -> tuple[int, str]:
    """Exit status and output of a pytest run whose one test is ``body``, with ``before`` above it."""
    (directory / "conftest.py").write_text('pytest_plugins = ("tests.gate.left_behind",)\n')
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_it.py").write_text(f"{before}def test_it({arguments}):\n    {body}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Path]:
    """A directory for a run whose test starts a process; whatever process its file ``pid`` names ends with it."""
    yield tmp_path
    if (pid := tmp_path / "pid").exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_run_that_left_nothing_passes(tmp_path: Path) -> None:
    status, output = run(tmp_path, "pass")
    assert status == 0, output


@pytest.mark.needs("root")
def test_a_process_that_stayed_fails_the_run(sleepers: Path) -> None:
    status, output = run(sleepers, SLEEPER)
    assert status == 1, output
    assert "this run left behind:\n  process" in output
    assert "sleep 300" in output


@pytest.mark.needs("root")
def test_a_process_that_nobody_waited_for_fails_the_run(tmp_path: Path) -> None:
    status, output = run(tmp_path, "import os; os.fork() or os._exit(0)")
    assert status == 1, output
    assert "(ended, nobody waited for it)" in output


@pytest.mark.needs("root")
def test_a_daemon_that_left_its_session_and_parent_is_found_too(sleepers: Path) -> None:
    status, output = run(
        sleepers,
        "import subprocess; subprocess.run(['sh', '-c', 'setsid sleep 300 >/dev/null 2>&1 & echo $! > pid'], check=True)",
    )
    assert status == 1, output
    assert "sleep 300" in output


def test_a_run_that_is_told_to_end_tidies_up_first(tmp_path: Path) -> None:
    fixture = (
        "import pytest\n@pytest.fixture\ndef made(tmp_path):\n    yield\n    open('tidied', 'w').close()\n\n"
    )
    body = "import os, signal\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()"
    status, output = run(tmp_path, body, fixture, arguments="made")
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert (tmp_path / "tidied").exists()


def test_so_does_one_whose_tests_have_handled_the_signal_themselves(tmp_path: Path) -> None:
    before = (
        "import asyncio, os, pytest, signal\n\n"
        "@pytest.fixture(scope='module')\ndef made():\n    yield\n    open('tidied', 'w').close()\n\n"
        "def test_with_a_loop(made):\n    async def main():\n"
        "        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)\n    asyncio.run(main())\n\n"
    )
    body = "os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()"
    status, output = run(tmp_path, body, before, arguments="made")
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert (tmp_path / "tidied").exists()


@pytest.fixture
def name(run_name: str) -> str:
    """A name of this run that only this module uses."""
    return f"{run_name}lb"


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Takes back, last first and also after a failure, what a test made on purpose."""
    with ExitStack() as stack:
        yield stack


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True)


@pytest.mark.needs("root", "veth")
def test_a_network_namespace_and_a_link_of_the_runs_name_are_found(
    run_name: str, name: str, undo: ExitStack
) -> None:
    sh(f"ip netns add {name}")
    undo.callback(sh, f"ip netns delete {name}")
    sh(f"ip link add {name} type veth peer name {name}p")
    undo.callback(sh, f"ip link delete {name}")
    assert {f"network namespace /run/netns/{name}", f"link {name}", f"link {name}p"} <= set(
        named_after(run_name)
    )


@pytest.mark.needs("root", "command:nft")
def test_an_nft_table_of_the_runs_name_is_found(run_name: str, name: str, undo: ExitStack) -> None:
    sh(f"nft add table inet {name}")
    undo.callback(sh, f"nft delete table inet {name}")
    assert f"nft table {name}" in set(named_after(run_name))


@pytest.mark.needs("root", "cgroup_v2")
def test_a_cgroup_of_the_runs_name_is_found_at_any_depth(run_name: str, name: str, undo: ExitStack) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    top = Path(next(line.split(" ")[1] for line in mounts if line.split(" ")[2] == "cgroup2"), name)
    for directory in (top, top / "below"):
        directory.mkdir()
        undo.callback(directory.rmdir)
    assert {f"cgroup {top}", f"cgroup {top}/below"} <= set(named_after(run_name))


@pytest.mark.needs("root", "bpf")
def test_a_mounted_bpffs_of_the_runs_name_is_found(
    run_name: str, name: str, tmp_path: Path, undo: ExitStack
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    sh(f"mount -t bpf bpf {directory}")
    undo.callback(sh, f"umount {directory}")
    assert f"mount {directory}" in set(named_after(run_name))


def test_another_runs_names_are_not_ours() -> None:
    assert not list(named_after("mt-of-no-run"))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"net/ipv4/ip_forward": "0\n"}, []),
        ({"net/ipv4/ip_forward": "1\n"}, ["sysctl net/ipv4/ip_forward: '0\\n' became '1\\n'"]),
        ({"net/ipv4/ip_forward": "0\n", "net/ipv4/conf/veth0/forwarding": "1\n"}, []),
        ({}, []),
    ],
    ids=["the same", "another value", "a new link", "a module that went"],
)
def test_a_sysctl_that_kept_another_value_is_named(after: dict[str, str], expected: list[str]) -> None:
    assert list(changed({"net/ipv4/ip_forward": "0\n"}, after)) == expected
