"""A pytest plugin: the machine after the run is the machine before it, or the run fails and says what stayed.

Looked at once, after everything else was torn down, and as root only: without root a test cannot make any of this.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.gate.machine import cgroups, links, mounts, named_netns, nft_tables, processes_with, sysctls

RUN_VARIABLE = "MESHD_TEST_RUN"
SETTLE_S = 5.0


def pytest_configure() -> None:
    """A run that is told to end (`timeout`, a cancelled CI job) tidies up as it does after Ctrl-C."""
    _tidy_up_when_told_to_end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before each test, because an event loop that took the signal in the one before gave it back to nobody."""
    _tidy_up_when_told_to_end()


def _tidy_up_when_told_to_end() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_name() -> str:
    """``mt`` and this process id in hex: how every name begins that this run gives to something in the kernel.

    8 characters, so that 7 are left in an interface name. Always as many: else the name of one run that is alive could be
    the beginning of another's. Process ids end below 2**22 (PID_MAX_LIMIT).
    """
    return f"mt{os.getpid():06x}"


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(run_name: str) -> Iterator[None]:
    """Fails the session, by an error at the last test's teardown, with all that stayed."""
    if os.geteuid() != 0:
        yield
        return
    mark = f"{RUN_VARIABLE}={run_name}-{secrets.token_hex(8)}"
    before = sysctls()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(*mark.split("=", 1))
        yield
    left = _after_settling(
        lambda: [*named_after(run_name), *processes_with(mark), *changed(before, sysctls())]
    )
    if left:
        pytest.fail("this run left behind:\n  " + "\n  ".join(left), pytrace=False)


def _after_settling(look: Callable[[], list[str]]) -> list[str]:
    """What ``look`` finds once it finds nothing, or after SETTLE_S: a killed process is not gone in that instant."""
    deadline = time.monotonic() + SETTLE_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def named_after(run_name: str) -> Iterator[str]:
    """Kernel objects whose name begins with ``run_name``, each as one line."""
    for kind, paths in {
        "network namespace": named_netns(),
        "link": links(),
        "nft table": nft_tables(),
        "cgroup": cgroups(),
        "mount": mounts(),
    }.items():
        for path in paths:
            if any(part.startswith(run_name) for part in Path(path).parts):
                yield f"{kind} {path}"


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Sysctls that do not hold their old value; one that came or went belongs to a link or module."""
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"sysctl {name}: {before[name]!r} became {after[name]!r}"
