"""What `meshctl bench propagation` reports came through two etcds, and a change that does not come through is no figure."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest

from meshd.bench import places
from meshd.bench.clusters import Cluster
from meshd.bench.places import BenchError
from meshd.bench.population import BACKENDS_EACH, endpoints, global_services, population
from meshd.bench.propagation import arrived, kernel
from tests.e2e.test_bench import traces

TINY = ("propagation", "--services", "8", "--toggles", "6", "-o", "json")


def test_a_run_reports_both_nodes_and_the_target_and_leaves_nothing(run_name: str) -> None:
    name = f"{run_name}p"
    command = [sys.executable, "-m", "meshd.bench.cli", *TINY, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["rounds"]) == ("propagation", 6)
    assert {(row["path"], row["metric"]) for row in found["rows"]} == {
        (path, f"{what} {quantile}")
        for path in ("same cluster", "other cluster")
        for what in ("ready", "not ready")
        for quantile in ("p50", "p99")
    }
    assert [target["limit"] for target in found["targets"]] == [250.0]
    assert all(row["value"] > 0 for row in found["rows"])
    assert traces(name) == []


def test_a_change_that_never_reaches_the_other_cluster_is_an_error_and_no_figure(run_name: str) -> None:
    (service,) = population(1)
    with places.opened(f"{run_name}q") as opened, contextlib.ExitStack() as stack:
        place = opened.place("apart")
        # Nobody tells cm-2 of cm-1.
        agents = [Cluster(opened, place, stack, f"cm-{number}", number).start_agent() for number in (1, 2)]
        for agent in agents:
            agent.put("services.json", global_services([service]))
        agents[0].put("s0.json", endpoints(service))
        kernels = [kernel(agent, stack) for agent in agents]
        assert arrived(kernels[:1], service, BACKENDS_EACH)
        assert arrived(kernels[1:], service, 0)
        with pytest.raises(BenchError, match=f"cm-1 and cm-2 have {BACKENDS_EACH} and 0"):
            arrived(kernels, service, BACKENDS_EACH, timeout_s=0.5)
