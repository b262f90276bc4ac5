"""A manifest file as documents, and each document as the objects it holds.

A file is cut at its document separators before anything is parsed, so a document that cannot be read costs only
itself, and one that did not change since the last time is recognised by its digest and not parsed again: changing
one service in a file of ten thousand is as quick as in a file of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from meshd.errors import InvalidObject
from meshd.sources.field_path import Path, parse_field
from meshd.sources.kubernetes.objects import Context, Value, convert, identify
from meshd.sources.kubernetes.types import ObjectName
from meshd.sources.yaml_values import Unreadable, find_lines, load


class Document(NamedTuple):
    """One document as it stands in its file: ``line`` (from 0) is where ``text`` begins.

    ``of_list``: the (apiVersion, kind) of an item of a typed list, which need not repeat them.
    """

    line: int
    text: str
    is_json: bool = False
    of_list: tuple[str, str] | None = None

    def digest(self) -> bytes:
        """Equal for equal content, wherever in the file it stands."""
        mark = f"{self.is_json}{self.of_list}\0".encode()
        return hashlib.blake2b(mark + self.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Fault(NamedTuple):
    """Something that is not used, or not used as a whole; ``line`` counts from 0 within the document."""

    line: int
    object_name: str
    field: str
    reason: str


class Item(NamedTuple):
    """What became of one object. ``name`` None: it cannot even be told which object it is.

    ``usable`` False: its last good version stays in force. ``value`` None in a usable one: it says nothing here.
    """

    name: ObjectName | None
    value: Value | None
    usable: bool
    line: int
    faults: tuple[Fault, ...] = ()


# Cutting


def yaml_documents(text: str) -> Iterator[Document]:
    """The documents of a YAML stream. A line that begins with ``---`` separates them (YAML 1.2, 9.1.2)."""
    line = begin = 0
    while begin < len(text):
        end = _next_separator(text, begin)
        piece = text[begin:end]
        if not _says_nothing(piece):
            yield Document(line, piece)
        line += piece.count("\n")
        begin = end


def json_documents(text: str) -> Iterator[Document | Unreadable]:
    """The one object of a JSON file, or the items of a list one by one."""
    data = text.encode()
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.DecodeError as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        yield Unreadable(data.count(b"\n", 0, int(at[1])) if at else 0, str(error))
        return
    if head.items is None or not _is_list(head.kind):
        yield Document(0, text, is_json=True)
        return
    of_list = _item_kind(head.api_version, head.kind)
    line = begin = 0
    for item in head.items:
        found = data.find(bytes(item), begin)  # items are slices of the text, in order
        line += data.count(b"\n", begin, found)
        begin = found
        yield Document(line, bytes(item).decode(), is_json=True, of_list=of_list)


class _Head(msgspec.Struct, rename="camel"):
    kind: object = None
    api_version: object = None
    items: list[msgspec.Raw] | None = None


def _next_separator(text: str, begin: int) -> int:
    at = begin
    while (at := text.find("\n---", at)) >= 0:
        if text[at + 4 : at + 5] in ("", "\n", " ", "\t", "\r"):
            return at + 1
        at += 1
    return len(text)


def _says_nothing(piece: str) -> bool:
    """Only separators, comments, directives and space: what templates leave behind."""
    if len(piece) > 4096:
        return False
    lines = (line.strip() for line in piece.splitlines())
    return all(not line or line in ("---", "...") or line[0] in "#%" for line in lines)


def _first_line(piece: str) -> int:
    """Which line (from 0) says something."""
    for number, line in enumerate(piece.splitlines()):
        stripped = line.strip()
        if stripped and stripped != "---" and stripped[0] not in "#%":
            return number
    return 0


# Reading


def read_document(document: Document, context: Context) -> Generator[None, None, tuple[Item, ...]]:
    """What became of each object in ``document``: one, or the items of a list. Yields to let others work."""
    raw = _from_json(document) if document.is_json else (yield from load(document.text))
    if isinstance(raw, Unreadable):
        fault = Fault(raw.line, "document", "syntax", raw.reason)
        return (Item(None, None, usable=False, line=raw.line, faults=(fault,)),)
    if raw is None:
        return ()
    found: list[tuple[Path, Item]] = []
    for path, entry in _objects(raw, document.of_list):
        found.append((path, _read_object(entry, context)))
        yield
    return tuple((yield from _with_lines(document, found)))


def _from_json(document: Document) -> object:
    try:
        return json.loads(document.text, object_pairs_hook=_without_doubles)
    except ValueError as error:
        return Unreadable(getattr(error, "lineno", 1) - 1, str(error))


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)} is there twice")
    return found


def _objects(raw: object, of_list: tuple[str, str] | None) -> Iterator[tuple[Path, object]]:
    if isinstance(raw, dict) and _is_list(raw.get("kind")) and isinstance(raw.get("items"), list):
        of_list = _item_kind(raw.get("apiVersion"), raw["kind"])
        for index, entry in enumerate(raw["items"]):
            yield ("items", index), _typed(entry, of_list)
    else:
        yield (), _typed(raw, of_list)


def _is_list(kind: object) -> bool:
    return isinstance(kind, str) and kind.endswith("List")


def _item_kind(version: object, kind: object) -> tuple[str, str] | None:
    if kind == "List" or not isinstance(version, str) or not isinstance(kind, str):
        return None
    return version, kind.removesuffix("List")


def _typed(entry: object, of_list: tuple[str, str] | None) -> object:
    if of_list is None or not isinstance(entry, dict) or "kind" in entry:
        return entry
    return {**entry, "apiVersion": of_list[0], "kind": of_list[1]}


def _read_object(raw: object, context: Context) -> Item:
    name: ObjectName | None = None
    try:
        name = identify(raw)
        converted = convert(raw, name, context)
    except InvalidObject as error:
        fault = Fault(0, error.object_name, error.field, error.reason)
        return Item(name, None, usable=False, line=0, faults=(fault,))
    faults = tuple(Fault(0, str(name), remark.field, remark.reason) for remark in converted.remarks)
    return Item(name, converted.value, usable=True, line=0, faults=faults)


def _with_lines(document: Document, found: list[tuple[Path, Item]]) -> Generator[None, None, list[Item]]:
    """Only an object with a fault, or one of a list, needs a second look at the text to learn its line."""
    paths = {path + parse_field(fault.field) for path, item in found for fault in item.faults}
    paths |= {path for path, _ in found if path}
    first = _first_line(document.text)
    if not paths:
        return [item._replace(line=first) for _, item in found]
    text = (
        document.text.replace("\t", " ") if document.is_json else document.text
    )  # YAML indents without tabs
    lines = yield from find_lines(text, paths)
    placed: list[Item] = []
    for path, item in found:
        faults = [fault._replace(line=lines[path + parse_field(fault.field)]) for fault in item.faults]
        placed.append(item._replace(line=lines.get(path, first), faults=tuple(faults)))
    return placed
