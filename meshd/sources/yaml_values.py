"""One YAML document as plain values (mappings, lists, scalars), a slice at a time, and the lines its fields stand in.

libyaml does the parsing; building the values from its events instead of through PyYAML's constructors is what lets a
document of any size be read without holding up the caller, is twice as fast, and keeps Kubernetes' reading of scalars
(1:20 and 2001-01-01 are texts). Keys are texts, a key that is there twice is an error, anchors and merge keys work.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Mapping
from typing import Any, NamedTuple

import yaml

from meshd.sources.field_path import Path

SLICE_EVENTS = 400
"""Parser events between two chances for the caller to do something else; about 2 ms of work."""
DEPTH_MAX = 64

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"))
_FALSE = frozenset(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_TEXT_TAG = "tag:yaml.org,2002:str"

_Event = Any  # PyYAML's events are of classes without a common type that carries their fields


class Unreadable(NamedTuple):
    """A text that is no (acceptable) document. ``line`` counts from 0, within the text."""

    line: int
    reason: str


class _Refused(Exception):
    def __init__(self, event: _Event, reason: str) -> None:
        self.found = Unreadable(_line(event), reason)
        super().__init__(reason)


class _Open:
    """A mapping or list whose end has not been seen yet."""

    __slots__ = ("anchor", "key", "merged", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.merged: list[Mapping[str, Any]] = []


def load(text: str) -> Generator[None, None, object | Unreadable]:
    """The value of the one document in ``text``; None if there is none. Yields to let others work."""
    try:
        return (yield from _build(text))
    except _Refused as refused:
        return refused.found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = text.rstrip().count("\n")  # an end that is missing is missed behind it
        return Unreadable(
            min(getattr(mark, "line", 0), last), " ".join(filter(None, (error.context, error.problem)))
        )
    except (yaml.YAMLError, ValueError) as error:  # a character that may not be in YAML
        line = text.count("\n", 0, getattr(error, "position", 0))
        return Unreadable(line, " ".join(str(error).split()))


def find_lines(text: str, paths: Collection[Path]) -> Generator[None, None, dict[Path, int]]:
    """Where the values at ``paths`` stand in ``text`` (line from 0), or else the innermost thing around them.

    ``text`` is one that ``load`` could read.
    """
    wanted = {path[:length] for path in paths for length in range(len(path) + 1)}
    found: dict[Path, int] = {}
    here: list[str | int | None] = []  # one step for each open mapping (its key) or list (its index)
    event: _Event
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if count % SLICE_EVENTS == SLICE_EVENTS - 1:
            yield
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            here.pop()
        elif not isinstance(event, yaml.NodeEvent):
            continue
        elif here and here[-1] is None and isinstance(event, yaml.ScalarEvent):
            here[-1] = event.value
            continue
        else:
            path = tuple(step for step in here if step is not None)
            if path in wanted:
                found.setdefault(path, _line(event))
            if isinstance(event, yaml.MappingStartEvent):
                here.append(None)
                continue
            if isinstance(event, yaml.SequenceStartEvent):
                here.append(0)
                continue
        if here:  # a value is complete: the next key, or the next index
            step = here[-1]
            here[-1] = step + 1 if isinstance(step, int) else None
    return {path: _innermost(path, found) for path in paths}


def _line(event: _Event) -> int:
    return int(event.start_mark.line)


def _innermost(path: Path, found: Mapping[Path, int]) -> int:
    lengths = range(len(path), -1, -1)
    return next((found[path[:length]] for length in lengths if path[:length] in found), 0)


def _build(text: str) -> Generator[None, None, object]:
    anchors: dict[str, object] = {}
    stack: list[_Open] = []
    root: object = None
    event: _Event
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if count % SLICE_EVENTS == SLICE_EVENTS - 1:
            yield
        if isinstance(event, yaml.ScalarEvent):
            if stack and stack[-1].key is None and isinstance(stack[-1].value, dict):
                _take_key(stack[-1], event)
                continue
            value = _scalar(event)
            if event.anchor:
                anchors[event.anchor] = value
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            _check_start(stack, event)
            stack.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
            continue
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            value = _close(stack.pop(), anchors)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise _Refused(event, f"*{event.anchor} names no anchor before it")
            value = anchors[event.anchor]
        else:
            continue
        if stack:
            _attach(stack[-1], value, event)
        else:
            root = value
    return root


def _check_start(stack: list[_Open], event: _Event) -> None:
    if event.tag and event.tag not in _TAGS:
        raise _Refused(event, f"tag {event.tag} is not used in Kubernetes objects")
    if len(stack) >= DEPTH_MAX:
        raise _Refused(event, f"nested deeper than {DEPTH_MAX}")
    if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
        raise _Refused(event, "a key must be a text")


def _take_key(parent: _Open, event: _Event) -> None:
    if event.value in parent.value:
        raise _Refused(event, f"key {event.value} is there already")
    parent.key = event.value


def _attach(parent: _Open, value: object, event: _Event) -> None:
    if isinstance(parent.value, list):
        parent.value.append(value)
        return
    if parent.key is None:
        raise _Refused(event, "a key must be a text")
    if parent.key == "<<":
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise _Refused(event, "<< merges mappings only")
            parent.merged.append(source)
    else:
        parent.value[parent.key] = value
    parent.key = None


def _close(ended: _Open, anchors: dict[str, object]) -> object:
    if isinstance(ended.value, dict):
        for source in ended.merged:
            for key, value in source.items():
                ended.value.setdefault(key, value)
    if ended.anchor:
        anchors[ended.anchor] = ended.value
    return ended.value


def _scalar(event: _Event) -> object:
    text: str = event.value
    if event.tag is None or event.tag == "!":
        return _plain(text) if event.implicit[0] else text
    if event.tag not in _TAGS:
        raise _Refused(event, f"tag {event.tag} is not used in Kubernetes objects")
    return text if event.tag == _TEXT_TAG else _plain(text)


def _plain(text: str) -> object:
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    first = text[0]
    if not (first.isdigit() or first in "+-.") or len(text) > 40:
        return text
    if _INTEGER.fullmatch(text):
        digits = text.replace("_", "")
        octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)  # YAML 1.1
        return int(octal[1] + octal[2], 8) if octal else int(digits, 0)
    return float(text.replace("_", "")) if _FLOAT.fullmatch(text) else text
