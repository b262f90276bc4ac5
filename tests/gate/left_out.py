"""A pytest plugin: what a run leaves out, why, and whether that was agreed.

A test says what it needs, ``@pytest.mark.needs("netem", "command:iperf3")``; a folder in ``FOLDER_NEEDS`` says it for all of
its tests. What is absent is left out with its reason, and the run closes with the list. Under ``CI=true`` the run fails
where it and the agreement for the running kernel (``agreement.py``) differ, a bare ``pytest.skip`` included.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from tests.gate.agreement import (
    Account,
    Agreement,
    AgreementError,
    count,
    disagreements,
    path_for,
    read_agreement,
)
from tests.gate.features import UnknownFeature, absence

LISTS = Path(__file__).parents[1] / "left_out"
IN_KERNEL = ("root", "bpf", "cgroup_v2")
FOLDER_NEEDS: Mapping[str, tuple[str, ...]] = {
    "tests/bpf/": IN_KERNEL,
    "tests/netns/": IN_KERNEL,
    "tests/netns/short_circuit/": ("sk_msg_reads_sockets",),
    "tests/e2e/": (*IN_KERNEL, "etcd"),
    "tests/etcd/": ("etcd",),
    "tests/kubernetes/": ("etcd", "kubernetes"),
}

AGREEMENT = pytest.StashKey[Agreement]()
ACCOUNT = pytest.StashKey[Account]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--left-out-list``: another agreement than the running kernel's."""
    parser.addoption(
        "--left-out-list", type=Path, help="file of 'feature: reason' lines instead of the kernel's own"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the agreement before anything is collected, so that a bad one stops the run at once."""
    path: Path = config.getoption("left_out_list") or path_for(platform.release(), LISTS)
    name = str(path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path)
    try:
        config.stash[AGREEMENT] = read_agreement(path, name)
    except AgreementError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[ACCOUNT] = Account()
    config.addinivalue_line("markers", "needs(*features): what the test cannot run without")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A feature nobody can look for is a mistake in the test: it is refused before the first test runs."""
    for item in items:
        for feature in needs(item):
            try:
                _why_absent(feature)
            except UnknownFeature as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def needs(item: pytest.Item) -> tuple[str, ...]:
    """Every feature ``item`` needs: its folder's first, then those of its markers, each once."""
    of_folder = [features for folder, features in FOLDER_NEEDS.items() if item.nodeid.startswith(folder)]
    of_marks = [mark.args for mark in item.iter_markers("needs")]
    return tuple(dict.fromkeys(feature for group in (*of_folder, *of_marks) for feature in group))


def _why_absent(feature: str) -> str | None:
    """The kernel layer probes as root only: its names are unknown without root, and not to be had either."""
    try:
        return absence(feature)
    except UnknownFeature:
        if absence("root") is None:
            raise
        return "not root"


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Long tests are left out by choice: counted, not judged."""
    for item in items:
        if item.get_closest_marker("long"):
            item.config.stash[ACCOUNT].long += 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the test out for the first thing it needs that is absent, before any fixture starts."""
    account = item.config.stash[ACCOUNT]
    for feature in needs(item):
        reason = _why_absent(feature)
        if reason is not None:
            account.left_out.setdefault(feature, []).append(item.nodeid)
            account.absences[feature] = reason
            pytest.skip(f"needs {feature}: {reason}")
    for feature in needs(item):
        account.ran.setdefault(feature, []).append(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a test that skipped itself. An xfail did run: it is a skip by name only."""
    report = yield
    account = item.config.stash[ACCOUNT]
    by_name = any(item.nodeid in tests for tests in account.left_out.values())
    if report.skipped and not by_name and not hasattr(report, "wasxfail"):
        account.skipped_themselves[item.nodeid] = _reason(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips all of itself while it is imported counts like a test that does."""
    report = yield
    if report.skipped:
        collector.config.stash[ACCOUNT].skipped_themselves[collector.nodeid] = _reason(report)
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


def _differences(config: pytest.Config) -> list[str]:
    """What fails the run; empty outside CI, where a machine may be what it is."""
    if os.environ.get("CI") != "true":
        return []
    return list(disagreements(config.stash[AGREEMENT], config.stash[ACCOUNT], _present))


def _present(feature: str) -> bool:
    """An agreed feature that nobody can look for is not there; that its line says nothing is found in review."""
    try:
        return _why_absent(feature) is None
    except UnknownFeature:
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Passing tests do not make a passing run when CI left out what nobody agreed to."""
    if session.exitstatus == pytest.ExitCode.OK and _differences(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Close with what was left out and why, then with what of that was not agreed."""
    account, agreement = config.stash[ACCOUNT], config.stash[AGREEMENT]
    terminalreporter.section("left out")
    for feature, tests in sorted(account.left_out.items()):
        agreed = "" if feature in agreement.reasons else f" (not on {agreement.name})"
        terminalreporter.line(f"{feature}: {count(tests)}: {account.absences[feature]}{agreed}")
    for test, reason in sorted(account.skipped_themselves.items()):
        terminalreporter.line(f"{test}: {reason}")
    if account.long:
        terminalreporter.line(f"long: {account.long} tests: run by `make test-long`")
    if not (account.left_out or account.skipped_themselves or account.long):
        terminalreporter.line("nothing")
    for difference in _differences(config):
        terminalreporter.line(f"CI: {difference}", red=True)
