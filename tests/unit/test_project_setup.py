"""Set-up: nothing twice, nothing started, and a policy-rc.d that is afterwards what it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import debian, stamps

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from scripts.debian import no_service_starts
with no_service_starts(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def absent(policy: Path) -> None:
    """A machine without any policy, as most are."""


def a_file(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o750)
    os.utime(policy, (1_000_000_000, 1_000_000_000))


def a_link(policy: Path) -> None:
    policy.symlink_to("/etc/alternatives/policy-rc.d")


before = pytest.mark.parametrize("before", [absent, a_file, a_link])


def state(policy: Path) -> object:
    """All that "as it was" means: what else is in the directory, kind, mode, time and content."""
    names = sorted(path.name for path in policy.parent.iterdir())
    if not os.path.lexists(policy):
        return names
    status = policy.lstat()
    content = policy.readlink() if policy.is_symlink() else policy.read_text()
    return names, status.st_mode, status.st_mtime, status.st_ino, content


@before
def test_while_packages_are_installed_every_start_is_refused(
    tmp_path: Path, before: Callable[[Path], None]
) -> None:
    policy = tmp_path / "policy-rc.d"
    before(policy)
    with debian.no_service_starts(policy):
        assert subprocess.run([policy, "etcd", "start"], check=False).returncode == 101


@before
def test_the_policy_is_put_back_exactly(tmp_path: Path, before: Callable[[Path], None]) -> None:
    policy = tmp_path / "policy-rc.d"
    before(policy)
    expected = state(policy)
    with debian.no_service_starts(policy):
        pass
    assert state(policy) == expected


@before
def test_the_policy_is_put_back_when_the_installation_fails(
    tmp_path: Path, before: Callable[[Path], None]
) -> None:
    policy = tmp_path / "policy-rc.d"
    before(policy)
    expected = state(policy)
    with pytest.raises(debian.InstallError), debian.no_service_starts(policy):
        raise debian.InstallError("no network")
    assert state(policy) == expected


@before
def test_the_run_after_a_killed_one_puts_the_policy_back(
    tmp_path: Path, before: Callable[[Path], None]
) -> None:
    policy = tmp_path / "policy-rc.d"
    before(policy)
    expected = state(policy)
    command = [sys.executable, "-c", HOLD, str(policy)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"held\n"
        killed.kill()
    assert state(policy) != expected
    with debian.no_service_starts(policy):
        pass
    assert state(policy) == expected


class Interrupted(subprocess.Popen[bytes]):
    """A process that interrupts whoever waits for it, and ends only once it is waited for again."""

    waits = 0

    def wait(self, timeout: float | None = None) -> int:
        self.waits += 1
        if self.waits == 1:
            signal.raise_signal(signal.SIGINT)
        elif self.stdin is not None:
            self.stdin.close()
        return super().wait(timeout)


def test_an_interrupt_waits_for_the_package_manager_and_is_then_raised() -> None:
    command = ["sh", "-c", "read line; exit 7"]
    with Interrupted(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        with pytest.raises(KeyboardInterrupt):
            debian.wait_through_interrupts(process)
        assert process.returncode == 7


@pytest.mark.needs("command:dpkg-query")
def test_an_installed_package_is_not_missing_and_an_unknown_one_is() -> None:
    assert debian.missing(["dpkg", "no-such-package"]) == ["no-such-package"]


@pytest.mark.needs("command:dpkg-query")
def test_what_an_installed_package_stands_for_is_not_missing() -> None:
    # Every Debian has an awk, and there is no package of that name.
    assert debian.missing(["awk"]) == []


@pytest.mark.needs("command:dpkg-query")
def test_the_services_of_a_package_are_known_by_unit_and_by_script() -> None:
    assert "etcd" in debian.services_of("etcd-server")
    assert not debian.services_of("libbpf-dev")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.c", "b.c"):
        (tmp_path / name).write_text(name)
    return tmp_path


def key(tree: Path, *facts: str) -> str:
    return stamps.key_of(tree, tree.glob("*.c"), facts)


def test_a_step_is_current_until_its_sources_or_facts_change(tree: Path) -> None:
    stamp = tree / "stamps" / "build"
    stamps.write(stamp, key(tree, "3.11"))
    assert stamps.is_current(stamp, key(tree, "3.11"))
    assert not stamps.is_current(stamp, key(tree, "3.12"))
    (tree / "b.c").write_text("other")
    assert not stamps.is_current(stamp, key(tree, "3.11"))


def test_a_step_that_never_ended_is_not_current(tree: Path) -> None:
    assert not stamps.is_current(tree / "stamps" / "build", key(tree))


def test_a_renamed_source_is_a_change_and_a_moved_tree_is_none(tree: Path) -> None:
    first = key(tree)
    copy = tree / "copy"
    copy.mkdir()
    for path in tree.glob("*.c"):
        shutil.copy(path, copy)
    assert key(copy) == first
    (copy / "b.c").rename(copy / "c.c")
    assert key(copy) != first


def test_an_unknown_purpose_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.setup", "everything"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage: python3 -m scripts.setup constraints|check|demo|bench|test" in done.stderr


def test_a_missing_python_is_named_in_one_sentence() -> None:
    done = subprocess.run(
        [ROOT / "scripts/need-python3", "python9.9"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("meshd needs Python 3.11 or newer and finds no python9.9")
    assert done.stderr.count("\n") == 1


def test_the_pinned_versions_fit_all_that_the_project_asks_for() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [one for extra in pyproject["project"]["optional-dependencies"].values() for one in extra]
    asked = [*pyproject["project"]["dependencies"], *extras, *pyproject["build-system"]["requires"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)
    }
    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned: make constraints"
        assert version in requirement.specifier, f"{requirement} is pinned to {version}: make constraints"
