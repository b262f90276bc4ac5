"""YAML documents as plain values, and the lines of their fields."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshd.sources.field_path import parse_field
from meshd.sources.yaml_values import SLICE_EVENTS, Unreadable, find_lines, load

T = TypeVar("T")


def ended(work: Generator[None, None, T]) -> tuple[T, int]:
    """What ``work`` returned, and how often it let others work."""
    turns = 0
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: T = stop.value
            return result, turns
        turns += 1


def value(text: str) -> object:
    return ended(load(text))[0]


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("~", None),
        ("", None),
        ("'~'", "~"),
        ("true", True),
        ("Off", False),
        ("'true'", "true"),
        ("!!str true", "true"),
        ("!!int '7'", 7),
        ("80", 80),
        ("-80", -80),
        ("8_000", 8000),
        ("010", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("+.5", 0.5),
        # Texts in Kubernetes, though YAML 1.1 says otherwise.
        ("1:20", "1:20"),
        ("2001-01-01", "2001-01-01"),
        ("fd00::1", "fd00::1"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("10.0.0.1", "10.0.0.1"),
        ("1.2.3", "1.2.3"),
        ("a#b", "a#b"),
        ("9" * 41, "9" * 41),
    ],
)
def test_scalars_mean_what_kubernetes_takes_them_for(scalar: str, expected: object) -> None:
    assert value(f"key: {scalar}") == {"key": expected}


def test_keys_are_texts() -> None:
    assert value("{1: a, true: b, ~: c}") == {"1": "a", "true": "b", "~": "c"}


def test_anchors_and_merges_are_followed() -> None:
    assert value("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nlist: &l [1]\nagain: *l") == {
        "base": {"x": 1, "y": 2},
        "use": {"x": 1, "y": 3},
        "list": [1],
        "again": [1],
    }


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: [", 1, "expected"),
        ("a: 1\nb: 2\na: 3", 2, "key a is there already"),
        ("a: 1\nb: *x", 1, "names no anchor"),
        ("a: 1\nb: !!binary aGk=", 1, "tag"),
        ("a: 1\nb: !x {}", 1, "tag"),
        ("a: 1\n? [b]\n: c", 1, "key must be a text"),
        ("a: 1\n<<: 7", 1, "merges mappings only"),
        ("a: &a\n  b: *a", 1, "names no anchor"),
        ("a: 1\nb: \x01", 1, "control characters"),
        ("\n" + "[" * 100, 1, "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, line: int, reason: str) -> None:
    found = value(text)
    assert isinstance(found, Unreadable)
    assert (found.line, reason in found.reason) == (line, True), found


def test_a_large_document_is_read_in_turns() -> None:
    text = "\n".join(f"- {{n: {n}}}" for n in range(1000))
    found, turns = ended(load(text))
    assert found == [{"n": n} for n in range(1000)]
    assert turns >= 4000 // SLICE_EVENTS


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text("abc :-#[]{}'\"\n01.", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab01:", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
def test_what_was_written_is_read(written: object) -> None:
    assert value(yaml.safe_dump(written)) == written


@given(plain, st.booleans())
def test_block_and_flow_style_mean_the_same(written: object, flow: bool) -> None:
    assert value(yaml.safe_dump(written, default_flow_style=flow)) == written


DOCUMENT = """\
# a comment
kind: Service
metadata:
  name: a
  labels:
    x.io/y: z
spec:
  ports:
  - port: 80
    name: http
  - {port: 81,
     name: s}
  - &p
    port: 82
  - *p
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("kind", 1),
        ("metadata.name", 3),
        ("metadata.labels[x.io/y]", 5),
        ("spec.ports", 8),
        ("spec.ports[0].name", 9),
        ("spec.ports[1].port", 10),
        ("spec.ports[1].name", 11),
        ("spec.ports[2].port", 13),
        ("spec.ports[3].port", 14),
        ("spec.ports[1].targetPort", 10),
        ("spec.clusterIP", 7),
        ("status", 1),
    ],
)
def test_a_field_or_what_is_around_it_is_found_in_its_line(field: str, line: int) -> None:
    path = parse_field(field)
    assert ended(find_lines(DOCUMENT, [path]))[0] == {path: line}


def test_the_path_of_a_field_is_read_back_from_its_name() -> None:
    assert parse_field("spec.ports[0].port") == ("spec", "ports", 0, "port")
    assert parse_field("metadata.annotations[meshd.io/weight]") == (
        "metadata",
        "annotations",
        "meshd.io/weight",
    )
