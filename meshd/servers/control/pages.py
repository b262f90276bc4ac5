"""Lists in pages: by name, from behind the last name of the page before, without holding up the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from meshd.errors import InvalidObject

Name = tuple[str, ...]

V = TypeVar("V")
M = TypeVar("M")

PAGE_MAX = 1000
# Names looked at, and objects made into messages, in one turn of the event loop: 1 to 2 ms.
SLICE = 2000
MESSAGES = 100


async def page(names: Sequence[Name], size: int, token: str) -> tuple[list[Name], str]:
    """The next ``size`` (0: PAGE_MAX) of ``names`` in order, and the token of the page behind it ("": there is none).

    Names that come and go between two pages are missed or not; every other is on exactly one page.

    Raises:
        InvalidObject: the token is not one of ours.
    """
    wanted = min(size, PAGE_MAX) or PAGE_MAX
    after = decode(token)
    found: list[Name] = []
    for start in range(0, len(names), SLICE):
        behind = (name for name in names[start : start + SLICE] if name > after)
        # One more than wanted tells whether there is another page.
        found = list(islice(heapq.merge(found, sorted(behind)), wanted + 1))
        await asyncio.sleep(0)
    shown = found[:wanted]
    return shown, encode(shown[-1]) if len(found) > wanted else ""


async def messages(
    values: Iterable[V], make: Callable[[V], Iterable[M]], limit: int = 0
) -> tuple[list[M], int]:
    """What ``make`` makes of ``values``, and of how many; none is begun once ``limit`` messages (0: any) are made."""
    made: list[M] = []
    paused = taken = 0
    for value in values:
        if limit and len(made) >= limit:
            break
        made.extend(make(value))
        taken += 1
        if len(made) - paused >= MESSAGES:
            paused = len(made)
            await asyncio.sleep(0)
    return made, taken


def encode(name: Name) -> str:
    """The token of the page behind ``name``."""
    return base64.urlsafe_b64encode(msgspec.json.encode(name)).decode()


def decode(token: str) -> Name:
    """The name that ``token`` was made of; () for the first page.

    Raises:
        InvalidObject: it is not one of ours.
    """
    if not token:
        return ()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token), type=Name)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise InvalidObject("request", "page_token", "not a token of an earlier answer") from error
