"""Features are found by trying; what is missing says why and what it costs."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from meshd.errors import ConfigError
from meshd.kernel import features
from meshd.kernel.features import Feature
from meshd.kernel.links import AttachType, attach_cgroup
from meshd.kernel.netns import on_thread
from meshd.kernel.object import Loaded

T = TypeVar("T")


@pytest.fixture(scope="module")
def found() -> dict[str, Feature]:
    return {feature.name: feature for feature in features.probe()}


def test_a_feature_that_is_missing_says_why_and_what_it_costs(found: dict[str, Feature]) -> None:
    silent = [f.name for f in found.values() if not f.present and not (f.reason and f.cost)]
    assert silent == []


def test_a_feature_that_is_there_costs_nothing(found: dict[str, Feature]) -> None:
    assert [f.name for f in found.values() if f.present and (f.reason or f.cost)] == []


def test_everything_the_socket_hooks_need_is_found_where_they_load_and_attach(
    found: dict[str, Feature], probe: Loaded, scratch_cgroup: Path
) -> None:
    link = attach_cgroup(probe.programs["count_connect"].fd, scratch_cgroup, AttachType.CGROUP_CONNECT4, "c4")
    link.close()
    assert found["cgroup_connect"].present


def test_a_probe_that_the_kernel_refuses_is_a_missing_feature() -> None:
    no_such_hook = 9999
    reason = features._loads(18, no_such_hook)()
    assert reason.startswith("loading such a program answers E")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_probing_leaves_no_descriptor_open() -> None:
    features.probe()
    before = open_descriptors()
    features.probe()
    assert open_descriptors() == before


def test_a_usable_machine_is_accepted(bpffs: Path) -> None:
    features.require(bpffs / "node" / "maps")


def test_a_directory_outside_a_bpffs_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is in no bpffs.*mount -t bpf bpf /sys/fs/bpf`"):
        features.require(tmp_path)


def without_capabilities(function: Callable[[], T]) -> T:
    """Runs ``function`` on a thread that has given up root; credentials belong to the thread."""

    def unprivileged() -> T:
        setresuid = 117 if platform.machine() == "x86_64" else 147
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(setresuid, 65534, 65534, 65534) == 0
        return function()

    return on_thread(unprivileged)


def test_who_may_not_load_programs_is_told_so(bpffs: Path) -> None:
    with pytest.raises(ConfigError, match="run it as root"):
        without_capabilities(lambda: features.require(bpffs))
