"""Objects in files: documents of YAML or JSON, each one message, each right or wrong for itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from meshd.ctl.errors import CtlError

M = TypeVar("M", bound=Message)

# Enums may be written without the prefix that protobuf wants: TCP for PROTOCOL_TCP.
PREFIXES = {"protocol": "PROTOCOL_", "affinity": "AFFINITY_", "onStale": "ON_STALE_"}

# What only the agent says: files may hold it, for they may come from `get -o yaml`.
OUTPUT_ONLY = ("source", "status", "slice", "stale", "revision")


def read(file: str, make: Callable[[], M]) -> Iterator[M | CtlError]:
    """Each document of ``file`` ("-": stdin) as a message, or what is wrong with it.

    Raises:
        CtlError: the file cannot be read, or is no YAML at all.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CtlError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise CtlError(f"{file}: {' '.join(str(error).split())}") from error
    for number, document in enumerate(flattened(documents), start=1):
        try:
            yield message_of(document, make())
        except (ParseError, ValueError, TypeError) as error:
            # Protobuf adds lines with all fields that there are.
            yield CtlError(f"{file}, document {number}: {str(error).splitlines()[0]}")


def flattened(documents: list[Any]) -> Iterator[Any]:  # Any: whatever YAML holds
    """The documents, those of lists (as ``list -o yaml`` prints them) one by one; empty ones are no documents."""
    for document in documents:
        match document:
            case None:
                continue
            case {"services": list(parts)} | {"backends": list(parts)} | list(parts):
                yield from parts
            case _:
                yield document


def message_of(document: object, message: M) -> M:
    """``document`` as a message of the type of ``message``, which it fills.

    Raises:
        ValueError: it is not a mapping.
        ParseError: a field is unknown or of the wrong type.
    """
    if not isinstance(document, dict):
        raise ValueError("not a mapping of fields")  # noqa: TRY004 - of the file, not of the code
    fields = {name: value for name, value in document.items() if name not in OUTPUT_ONLY}
    return ParseDict(with_prefixes(fields), message)


def with_prefixes(value: Any) -> Any:  # Any: whatever YAML holds
    """``value`` with the enums as protobuf names them."""
    if isinstance(value, list):
        return [with_prefixes(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: spelled(name, with_prefixes(one)) for name, one in value.items()}


def spelled(name: str, value: Any) -> Any:  # Any: as above
    """The value of field ``name``, with its prefix if it is the name of an enum without one."""
    prefix = PREFIXES.get(name)
    if prefix is None or not isinstance(value, str):
        return value
    return value if value.startswith(prefix) else prefix + value.upper()
