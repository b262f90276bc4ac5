"""The body of a watch: lines in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import ApiServerError
from meshd.kubeapi.watching import Batch, changes

DECODER = msgspec.json.Decoder(dict[str, object])


def line(kind: str, name: str, version: int) -> bytes:
    body = {"metadata": {"name": name, "resourceVersion": str(version)}, "note": "ü\u2028"}
    return json.dumps({"type": kind, "object": body}, ensure_ascii=False).encode() + b"\n"


BODY = line("ADDED", "a", 1) + line("MODIFIED", "a", 2) + line("DELETED", "a", 3) + line("BOOKMARK", "", 9)
ERROR = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'


async def read(pieces: list[bytes]) -> list[Batch[dict[str, object]]]:
    async def given_pieces() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [batch async for batch in changes("watch services", given_pieces(), DECODER)]


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=8))
async def test_changes_are_the_same_however_the_body_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[begin:end] for begin, end in pairwise(places)]
    found = [change for batch in await read(pieces) for change in batch]
    assert [(c.item.name, c.item.resource_version, c.gone, c.bookmark) for c in found] == [
        ("a", "1", False, False),
        ("a", "2", False, False),
        ("a", "3", True, False),
        ("", "9", False, True),
    ]


async def test_what_arrives_together_is_one_batch() -> None:
    assert [len(batch) for batch in await read([BODY])] == [4]


async def test_half_a_line_at_the_end_counts_for_nothing() -> None:
    assert [len(batch) for batch in await read([BODY + line("ADDED", "b", 10)[:-5]])] == [4]


async def test_what_came_before_an_error_counts() -> None:
    found = []
    with pytest.raises(ApiServerError) as caught:
        async for batch in changes("watch services", _one(BODY + ERROR), DECODER):
            found.append(len(batch))  # noqa: PERF401 - what came before the error is kept
    assert (found, caught.value.status) == ([4], 410)


@pytest.mark.parametrize("bad", [b"<html>\n", b'{"type":"NEWS","object":{}}\n', b"[]\n"])
async def test_what_is_no_watch_is_an_error(bad: bytes) -> None:
    with pytest.raises(ApiServerError, match="watch services: 200: a "):
        await read([bad])


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body
