"""Every option of the configuration file, with type, default and what its section's docstring says of it."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from meshd.config import Config

HEAD = """\
# Options

The agent reads one YAML file, `/etc/meshd/config.yaml` or what `--config` names. An option that is not known, or of another
type, is refused with its name. Durations end in `S` and are seconds.
"""

# What is said of an option, or of several together: a line that begins with its name, or what follows `; `.
ITEM = re.compile(r"(?:^|; )((?:``\w+``(?:, (?:and )?|(?=[: ])))+):? ?", re.MULTILINE)


class UndocumentedOption(Exception):
    """An option of which its section's docstring says nothing."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the file names it: ``cni.podCidrs``."""

    path: str
    type: str
    default: str
    meaning: str


def page() -> str:
    """The options, one table for each section."""
    sections: dict[str, list[Option]] = {}
    for option in options(Config):
        sections.setdefault(option.path.rpartition(".")[0], []).append(option)
    return "\n".join([HEAD, *(_table(name, found) for name, found in sections.items())])


def options(section: type[msgspec.Struct], path: str = "") -> Iterator[Option]:
    """The options of ``section``, then those of the sections in it.

    Raises:
        UndocumentedOption: names the section and the option.
    """
    said = meanings(section.__doc__ or "")
    hints = get_type_hints(section)
    inner: list[tuple[type[msgspec.Struct], str]] = []
    for field in msgspec.structs.fields(section):
        name = f"{path}{field.encode_name}"
        below = _section_of(hints[field.name])
        if below:
            inner.append((below, name + "."))
            continue
        if field.name not in said:
            raise UndocumentedOption(f"the docstring of {section.__name__} says nothing of {field.name}")
        yield Option(name, _type(hints[field.name]), _default(field), said[field.name])
    for below, prefix in inner:
        yield from options(below, prefix)


def meanings(docstring: str) -> dict[str, str]:
    """Field -> what ``docstring`` says of it, in one line."""
    text = "\n".join(line.strip() for line in docstring.splitlines())
    found = list(ITEM.finditer(text))
    said = {}
    for item, following in zip(found, [*found[1:], None], strict=False):
        end = following.start() if following else len(text)
        meaning = text[item.end() : end].split("\n\n")[0]
        for name in re.findall(r"``(\w+)``", item[1]):
            said[name] = " ".join(meaning.split()).rstrip(".;").replace("``", "`")
    return said


def _table(name: str, found: list[Option]) -> str:
    title = f"## `{name}`" if name else "## The node"
    rows = [f"| `{one.path}` | {one.type} | {one.default} | {one.meaning} |" for one in found]
    return "\n".join([title, "", "| Option | Type | Default | |", "|---|---|---|---|", *rows, ""])


def _section_of(hint: Any) -> type[msgspec.Struct] | None:  # Any: a type expression
    for each in (hint, *get_args(hint)):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None


def _type(hint: Any) -> str:  # Any: as above
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} to {_type(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(hint, str(hint))


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value in {None, (), ""}:
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
