"""The changes in the body of a watch: one JSON document a line, in pieces that end anywhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from meshd.errors import ApiServerError
from meshd.kubeapi.answers import Item, Status, item_of

T = TypeVar("T")

# etcd takes no object above 1.5 MiB; in JSON it may be some times that.
LINE_MOST = 32 * 1024 * 1024


class Change(NamedTuple, Generic[T]):
    """``item`` is there now, or (``gone``) not any more, or (neither: a bookmark) only moves the resource version on."""

    item: Item[T]
    gone: bool = False
    bookmark: bool = False


Batch = list[Change[T]]


class Frame(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


_FRAME = msgspec.json.Decoder(Frame)
_STATUS = msgspec.json.Decoder(Status)


async def changes(
    what: str, pieces: AsyncIterator[bytes], decoder: msgspec.json.Decoder[T]
) -> AsyncGenerator[Batch[T], None]:
    """The changes in ``pieces``, those that are whole together. Half a line at the end counts for nothing.

    Raises:
        ApiServerError: the server says within the watch why it ends (410: list again), or something else than a watch.
    """
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n", len(rest) - len(piece)) + 1
        if not end:
            if len(rest) > LINE_MOST:
                raise ApiServerError(what, 200, "", f"a line of more than {LINE_MOST} bytes")
            continue
        lines = bytes(rest[:end]).splitlines()
        del rest[:end]
        found: Batch[T] = []
        for line in lines:
            if not line:
                continue
            try:
                found.append(_change(what, line, decoder))
            except ApiServerError:
                if found:  # what came before it counts
                    yield found
                raise
        if found:
            yield found


def _change(what: str, line: bytes, decoder: msgspec.json.Decoder[T]) -> Change[T]:
    try:
        frame = _FRAME.decode(line)
        if frame.type == "ERROR":
            said = _STATUS.decode(frame.object)
            after = said.details.retry_after_seconds if said.details else None
            raise ApiServerError(what, said.code, said.reason, said.message, after)
        if frame.type not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
            raise ApiServerError(what, 200, "", f"a change of type {frame.type!r}")
        item = item_of(frame.object, decoder)
    except msgspec.DecodeError as error:
        raise ApiServerError(what, 200, "", f"a line that is no change: {error}") from error
    return Change(item, gone=frame.type == "DELETED", bookmark=frame.type == "BOOKMARK")
