"""What deploy/ says is what Kubernetes understands and an agent accepts; the chart says what the base says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has none
import msgspec
import pytest
import yaml

from meshd.config import Config

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy" / "kubernetes"
RELEASE = "1.36"
# What kustomize itself reads, what agents read, and kinds that are no part of Kubernetes.
NOT_SERVED = ("kustomization.yaml", "meshd.yaml", "service-monitor.yaml")


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_generate", ROOT / "deploy" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = loaded()


def documents(path: Path) -> list[dict[str, Any]]:
    """The objects in ``path``."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def served() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*.yaml") if path.name not in NOT_SERVED]
    return [*sorted(found), generate.APPLIED, generate.APPLIED_ETCD]


@pytest.mark.parametrize("path", served(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_object_is_what_kubernetes_understands(path: Path) -> None:
    assert documents(path)
    for document in documents(path):
        kubernetes_validate.validate(document, RELEASE, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    (daemon_set,) = documents(DEPLOY / "base" / "daemon-set.yaml")
    daemon_set["spec"]["template"]["spec"]["containers"][0]["readonlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemon_set, RELEASE, strict=True)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("meshd.yaml")), ids=lambda path: path.parent.name)
def test_every_configuration_is_one_that_an_agent_accepts(path: Path) -> None:
    said = yaml.safe_load(path.read_text())
    # The pod's environment has the node's name.
    msgspec.convert(
        {"nodeName": "node-1"} | said, Config, strict=False, dec_hook=lambda kind, value: kind(value)
    )


def test_generated_files_are_fresh_and_a_change_would_be_seen() -> None:
    check = [sys.executable, "deploy/generate.py", "--check"]
    assert subprocess.run(check, cwd=ROOT, check=False).returncode == 0
    assert all(path.read_text() == content for path, content in generate.generated().items())


def test_a_marked_scalar_is_a_value_with_the_default_of_the_base() -> None:
    template, values = generate.templated("spec:\n  most: 1 #: most -- How many.\n")
    assert template == "spec:\n  most: {{ .Values.most | toJson }}\n"
    assert values == [generate.Value("most", "How many.", "1")]


def test_what_is_below_a_marked_key_is_its_default() -> None:
    source = "a:\n  b: #: b -- A list.\n    - one: 1\n      two: 2\n  c: 3\n"
    template, values = generate.templated(source)
    assert template == "a:\n  b: {{- toYaml .Values.b | nindent 4 }}\n  c: 3\n"
    assert values == [generate.Value("b", "A list.", "- one: 1\n  two: 2")]


def test_the_chart_has_lines_of_its_own_and_the_manifests_have_none() -> None:
    source = "a:\n  #+ b: {{ 1 }}\n  c: 3 #: c -- C.\n"
    assert generate.templated(source)[0] == "a:\n  b: {{ 1 }}\n  c: {{ .Values.c | toJson }}\n"
    assert generate.plain(source) == "a:\n  c: 3\n"


def test_a_value_in_two_places_is_described_once_and_one_with_dots_is_nested() -> None:
    source = "a: 1 #: x.y.a -- A.\nb:\n  c: 1 #: x.y.a\n"
    template, values = generate.templated(source)
    assert template == "a: {{ .Values.x.y.a | toJson }}\nb:\n  c: {{ .Values.x.y.a | toJson }}\n"
    assert generate.plain(source) == "a: 1\nb:\n  c: 1\n"
    assert yaml.safe_load(generate.values_file(values, "{}"))["x"] == {"y": {"a": 1}}


def test_a_name_is_marked_once() -> None:
    with pytest.raises(generate.MarkError, match="c is marked twice"):
        generate.templated("a: 1 #: c -- C.\nb: 2 #: c -- C.\n")


def test_the_image_is_of_the_version_of_the_project_everywhere() -> None:
    written = [*DEPLOY.rglob("*.yaml"), generate.CHART / "values.yaml"]
    tags = {
        tag
        for path in written
        for tag in re.findall(r"(?:meshd:|meshd-etcd:|newTag: )(\d+\.\d+\.\d+)", path.read_text())
    }
    assert tags == {generate.version()}
