"""The import contracts of pyproject.toml, tried on small trees with the packages' names: each bad import is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = [
    "sources",
    "servers",
    "dataplane",
    "telemetry",
    "state",
    "model",
    "kernel",
    "ctl",
    "lab",
    "bench",
    "api",
    "kubeapi",
    "kubenode",
    "runtime",
]
AGENT = "".join(
    f"import meshd.{part}.thing\n"
    for part in ("sources", "servers", "dataplane", "telemetry", "kubenode", "runtime", "kernel")
)
KUBEAPI = "import meshd.kubeapi.thing\n"
ALLOWED = {
    "meshd/agent.py": AGENT,
    "meshd/sources/thing.py": "import grpc\nimport clustermesh.remote\nimport meshd.state.thing\n" + KUBEAPI,
    "meshd/servers/thing.py": "import google.protobuf\nimport meshd.api.thing\nimport meshd.state.thing\n",
    "meshd/dataplane/thing.py": "import meshd.kernel.thing\nimport meshd.state.thing\nimport meshd.config\n",
    "meshd/telemetry/thing.py": "import meshd.kernel.thing\nimport meshd.errors\n",
    "meshd/state/thing.py": "import meshd.model.thing\n",
    "meshd/kernel/thing.py": "import meshd.errors\n",
    "meshd/ctl/thing.py": "import meshd.lab.thing\nimport meshd.bench.thing\nimport meshd.api.thing\n"
    + KUBEAPI,
    "meshd/lab/thing.py": "import meshd.kernel.thing\nimport meshd.api.thing\nimport grpc\n",
    "meshd/bench/thing.py": "import meshd.kernel.thing\nimport meshd.lab.thing\n" + KUBEAPI,
    "meshd/kubeapi/thing.py": "import meshd.errors\n",
    "clustermesh/remote.py": "import grpc\n",
}


def contracts(directory: Path, files: dict[str, str]) -> tuple[int, str]:
    """Exit status and output of lint-imports over a tree of ``files``, with every package there is and no other import."""
    empty = ["meshd/errors.py", "meshd/config.py", "meshd/agent.py", "clustermesh/remote.py"]
    packages = ["meshd", "clustermesh", *(f"meshd/{part}" for part in PARTS)]
    names = [*empty, *(f"{package}/{name}.py" for package in packages for name in ("__init__", "thing"))]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(files.get(name, ""))
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(
        [*command, f"--config={ROOT}/pyproject.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_the_architecture_allows_keeps_every_contract(tmp_path: Path) -> None:
    status, output = contracts(tmp_path, ALLOWED)
    assert status == 0, output
    assert " 0 broken" in output


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("meshd/state/thing.py", "meshd.dataplane.thing"),
        ("meshd/model/thing.py", "meshd.state.thing"),
        ("meshd/sources/thing.py", "meshd.dataplane.thing"),
        ("meshd/servers/thing.py", "meshd.sources.thing"),
        ("meshd/telemetry/thing.py", "meshd.servers.thing"),
        ("meshd/dataplane/thing.py", "meshd.agent"),
        ("meshd/errors.py", "meshd.model.thing"),
        ("meshd/kernel/thing.py", "meshd.model.thing"),
        ("meshd/kernel/thing.py", "clustermesh.remote"),
        ("meshd/servers/thing.py", "meshd.kernel.thing"),
        ("meshd/sources/thing.py", "meshd.kernel.thing"),
        ("meshd/state/thing.py", "meshd.kernel.thing"),
        ("meshd/ctl/thing.py", "meshd.kernel.thing"),
        ("meshd/ctl/thing.py", "meshd.state.thing"),
        ("meshd/lab/thing.py", "meshd.model.thing"),
        ("meshd/lab/thing.py", "meshd.ctl.thing"),
        ("meshd/bench/thing.py", "meshd.agent"),
        ("meshd/api/thing.py", "meshd.lab.thing"),
        ("meshd/agent.py", "meshd.lab.thing"),
        ("meshd/dataplane/thing.py", "grpc"),
        ("meshd/state/thing.py", "google"),
        ("meshd/model/thing.py", "meshd.api.thing"),
        ("meshd/kernel/thing.py", "grpc"),
        ("meshd/dataplane/thing.py", "clustermesh.remote"),
        ("clustermesh/remote.py", "meshd.errors"),
        ("meshd/kubeapi/thing.py", "meshd.model.thing"),
        ("meshd/kubeapi/thing.py", "meshd.config"),
        ("meshd/servers/thing.py", "meshd.kubeapi.thing"),
        ("meshd/dataplane/thing.py", "meshd.kubeapi.thing"),
        ("meshd/kubenode/thing.py", "meshd.sources.thing"),
        ("meshd/kubenode/thing.py", "meshd.kernel.thing"),
        ("meshd/state/thing.py", "meshd.kubenode.thing"),
        ("meshd/runtime/thing.py", "meshd.state.thing"),
        ("meshd/runtime/thing.py", "meshd.kernel.thing"),
    ],
)
def test_an_import_against_the_layers_breaks_a_contract(tmp_path: Path, importer: str, imported: str) -> None:
    status, output = contracts(tmp_path, {importer: f"import {imported}\n"})
    assert status == 1, output
    assert f"{importer.removesuffix('.py').replace('/', '.')} -> {imported}" in output
