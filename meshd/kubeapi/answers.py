"""What an API server answers: objects, pages of a list, refusals."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import msgspec

from meshd.errors import ApiServerError

T = TypeVar("T")


class StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: int | None = None


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a refusal, and of an ERROR within a watch (meta/v1 Status)."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


class ObjectHead(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Headed(msgspec.Struct, frozen=True, gc=False):
    """Any object, as far as it must be known to tell it from others and in time."""

    metadata: ObjectHead = ObjectHead()


class ListHead(msgspec.Struct, frozen=True, rename="camel", gc=False):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class RawList(msgspec.Struct, frozen=True, gc=False):
    metadata: ListHead = ListHead()
    items: list[msgspec.Raw] | None = None


class Item(NamedTuple, Generic[T]):
    """One object of a list or a watch. ``value`` None: it is none of the type asked for, ``reason`` says why."""

    namespace: str
    name: str
    resource_version: str
    value: T | None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class Listed(NamedTuple, Generic[T]):
    """A list or a page of one, as it was at ``resource_version``; ``rest`` asks for what follows."""

    items: list[Item[T]]
    resource_version: str
    rest: str = ""

    @property
    def values(self) -> list[T]:
        """The objects, without those that are of another shape."""
        return [item.value for item in self.items if item.value is not None]


_HEADED = msgspec.json.Decoder(Headed)
_LIST = msgspec.json.Decoder(RawList)
_STATUS = msgspec.json.Decoder(Status)


def item_of(raw: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> Item[T]:
    """The object in ``raw``. Raises msgspec.DecodeError: it is not even an object with metadata."""
    head = _HEADED.decode(raw).metadata
    try:
        return Item(head.namespace, head.name, head.resource_version, decoder.decode(raw))
    except msgspec.DecodeError as error:
        return Item(head.namespace, head.name, head.resource_version, None, str(error))


def page_of(body: bytes, decoder: msgspec.json.Decoder[T]) -> Listed[T]:
    """The page in ``body``. Raises msgspec.DecodeError: it is no list of objects."""
    found = _LIST.decode(body)
    items = [item_of(raw, decoder) for raw in found.items or ()]
    return Listed(items, found.metadata.resource_version, found.metadata.continue_)


def refusal(what: str, status: int, body: bytes, retry_after: str = "") -> ApiServerError:
    """The error that an answer with ``status`` is; of a proxy's page only the beginning is quoted."""
    try:
        said = _STATUS.decode(body)
    except msgspec.DecodeError:
        said = Status(message=body[:200].decode(errors="replace").strip())
    after = float(retry_after) if retry_after.isdecimal() else None
    if after is None and said.details is not None and said.details.retry_after_seconds:
        after = float(said.details.retry_after_seconds)
    return ApiServerError(what, status, said.reason, said.message, after)
