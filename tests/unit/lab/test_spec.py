"""lab.yaml: what is accepted, and which sentence says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.errors import ConfigError
from meshd.lab import spec

GOOD = """
clusters:
  - {name: cm-1, id: 1}
  - {name: cm-2, id: 2, nodes: 1}
pods:
  - {name: echo, command: [rebel-base], labels: {tier: back}}
services:
  - {name: echo, selector: {tier: back}, clusters: [cm-1], annotations: {meshd.io/global: "true"}}
"""

BAD = [
    ("clusters: []", "clusters: a lab needs at least one cluster"),
    ("clusters: [{name: a, id: 0}]", "cluster 'a': id: 0 is not in 1..199"),
    ("clusters: [{name: A, id: 1}]", "cluster 'A': name: must be lower-case"),
    (
        "clusters: [{name: default, id: 1}]",
        "cluster 'default': name: at most 32 characters, and not 'default'",
    ),
    ("clusters: [{name: a, id: 1, nodes: 0}]", "cluster 'a': nodes: 0 is not in 1..100"),
    ("clusters: [{name: a, id: 1}, {name: a, id: 2}]", "clusters: name: 'a' is there twice"),
    ("clusters: [{name: a, id: 1}, {name: b, id: 1}]", "clusters: id: '1' is there twice"),
    ("clusters: [{name: a, id: 1}]\npods: [{name: p, command: []}]", "pod 'p': command: is empty"),
    (
        "clusters: [{name: a, id: 1}]\npods: [{name: p, command: [x], clusters: [b]}]",
        "pod 'p': clusters: there is no cluster 'b'",
    ),
    (
        "clusters: [{name: a, id: 1}]\nservices: [{name: s, selector: {a: b}, port: 65536}]",
        "service 's': port: 65536 is not in 1..65535",
    ),
    (
        "clusters: [{name: a, id: 1}]\nservices: [{name: s, selector: {}}]",
        "service 's': selector: is empty, so it would select nothing",
    ),
    ("clusters: [{name: a, id: 1, colour: red}]", "unknown field `colour` - at `$.clusters[0]`"),
    ("clusters: [", "is not YAML"),
]


def test_a_file_says_clusters_pods_and_services_and_the_rest_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(GOOD)
    lab = spec.load(tmp_path / "lab.yaml")
    assert [(c.name, c.nodes) for c in lab.clusters] == [("cm-1", 2), ("cm-2", 1)]
    assert lab.pods[0].all_labels == {"app": "echo", "tier": "back"}
    assert lab.is_server(lab.pods[0])
    assert lab.services[0].is_global
    assert lab.services_of("cm-2") == {}


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[sentence for _text, sentence in BAD])
def test_a_lab_that_cannot_be_is_refused_by_name_field_and_reason(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        spec.load(path)
    assert sentence in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read: No such file"):
        spec.load(tmp_path / "none.yaml")


def test_the_default_lab_and_the_examples_are_labs() -> None:
    examples = sorted((Path(__file__).parents[3] / "deploy" / "lab").glob("*.yaml"))
    assert spec.checked(spec.DEFAULT) == spec.DEFAULT
    assert examples
    for example in examples:
        spec.load(example)
