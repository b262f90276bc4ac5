"""A cluster's own etcd as a place to talk in: what each node says under a prefix, as long as somebody listens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from clustermesh.errors import Compacted
from clustermesh.kv import Kv
from clustermesh.own_keys import OwnKeys
from clustermesh.watch import Batch

Word = TypeVar("Word", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Connected:
    """To the cluster's etcd."""

    kv: Kv
    own: OwnKeys


async def node_words(kv: Kv, prefix: str, word: type[Word]) -> AsyncGenerator[dict[str, Word], None]:
    """All nodes' words, by name, and again whenever one changes. What cannot be read is nobody's word.

    Raises:
        ClustermeshError: they cannot be read any more.
    """

    def note(key: str, value: bytes | None) -> None:
        name = key.removeprefix(prefix)
        found.pop(name, None)
        try:
            found[name] = msgspec.json.decode(value or b"", type=word)
        except msgspec.DecodeError:
            return

    while True:
        found: dict[str, Word] = {}
        listing = await kv.list(prefix)
        for item in listing.items:
            note(item.key, item.value)
        yield dict(found)
        try:
            async with aclosing(kv.watch(prefix, after=listing.revision)) as watch:
                async for step in watch:
                    for change in step.changes if isinstance(step, Batch) else ():
                        note(change.key, change.value)
                    yield dict(found)
        except Compacted:
            continue
