"""What `meshctl bench kubernetes` reports came through a real API server, and nothing of it stays there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.test_bench import traces
from tests.kubernetes.api_server import ApiServerAlone

TINY = ("kubernetes", "--services", "8", "--rate", "10", "--changes", "6", "-o", "json")


@pytest.mark.needs("root", "bpf", "cgroup_v2")
def test_a_run_reports_start_memory_and_changes_and_leaves_nothing(
    api_server: ApiServerAlone, run_name: str
) -> None:
    name = f"{run_name}k"
    command = [sys.executable, "-m", "meshd.bench.cli", *TINY, "--kubeconfig", str(api_server.admin)]
    done = subprocess.run([*command, "--name", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [target["limit"] for target in found["targets"]] == [20.0, 300.0, 60.0]
    assert {row["metric"] for row in found["rows"]} == {
        "start",
        "memory",
        "other changes",
        *(f"change from {what} {quantile}" for what in ("request", "answer") for quantile in ("p50", "p99")),
    }
    assert traces(name) == []
    assert api_server.kubectl("get", "services,endpointslices", "--namespace", name, "-o", "name") == ""


def test_an_api_server_that_is_not_there_is_said(run_name: str, api_server: ApiServerAlone) -> None:
    missing = api_server.directory / "absent"
    command = [sys.executable, "-m", "meshd.bench.cli", *TINY, "--kubeconfig", str(missing)]
    done = subprocess.run([*command, "--name", f"{run_name}a"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"kubeconfig {missing} cannot be read: No such file" in done.stderr
