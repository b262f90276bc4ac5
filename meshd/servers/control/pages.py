"""Lists in pages: by name, from behind the last name of the page before, without holding up the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
from collections.abc import Sequence
from itertools import islice

import msgspec

from meshd.errors import InvalidObject

Name = tuple[str, ...]

PAGE_MAX = 1000
# Names looked at in one turn of the event loop: below 2 ms.
SLICE = 5000


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
