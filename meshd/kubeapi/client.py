"""Requests to the API server of Kubernetes, typed: get, list, watch, create, replace, patch, delete.

``into`` is what an answer is decoded as: a msgspec struct of the fields that one needs (the others are skipped, which is
what makes a large cluster affordable), or :data:`OBJECT` for all of it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from meshd import __version__
from meshd.errors import ApiServerError
from meshd.kubeapi.access import Access
from meshd.kubeapi.answers import Listed, page_of
from meshd.kubeapi.asking import Asking
from meshd.kubeapi.questions import APPLY, JSON, MERGE, STRATEGIC, decoded, name_in, selectors, what, writing
from meshd.kubeapi.resources import Resource
from meshd.kubeapi.transport import Question
from meshd.kubeapi.watching import Batch, changes

__all__ = ["APPLY", "JSON", "MERGE", "OBJECT", "STRATEGIC", "Client", "Object"]

T = TypeVar("T")
Object = dict[str, Any]  # Any: JSON
OBJECT = Object

TIMEOUT_S = 30.0
PAGE = 500
# As client-go: so that not all watches of a cluster end together.
WATCH_S = (300, 600)
# Bookmarks come once a minute. A server that hangs keeps its connections; a watch that is silent for longer is made again.
SILENCE_S = 180.0
# How often a list is begun anew because it took longer than the server remembers; then it is asked for in one piece.
LIST_AGAIN = 2


class Client:
    """Use as ``async with Client(access) as client``. All methods raise

    ApiServerError: it answered with a refusal; ApiServerUnreachable: nobody answered (a change may have been made);
    ConfigError: the credentials cannot be read.
    """

    def __init__(
        self,
        access: Access,
        *,
        user_agent: str = f"meshd/{__version__}",
        timeout_s: float = TIMEOUT_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.access = access
        self._asking = Asking(access, user_agent, timeout_s, silence_s)

    async def __aenter__(self) -> Self:
        await self._asking.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._asking.__aexit__(kind, error, trace)

    @property
    def endpoint(self) -> str:
        """The API server that is asked next."""
        return self._asking.endpoint

    async def fetch(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The body at any path: ``/version``, ``/readyz``, a pod's log."""
        return await self._asking.answer(Question(f"get {path}", "GET", path, query or {}))

    async def get(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        into: type[T],
        subresource: str = "",
    ) -> T:
        """One object."""
        path = resource.path(namespace, name, subresource)
        question = Question(what("get", resource, namespace, name, subresource), "GET", path)
        return decoded(await self._asking.answer(question), into, question)

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        into: type[T],
        labels: str = "",
        fields: str = "",
        page: int = PAGE,
    ) -> Listed[T]:
        """All objects in ``namespace`` (empty: everywhere) that the selectors name, as they are at one resource version.

        It is read in pages; where that takes longer than the server remembers, it is begun anew, nothing is put together
        from two times.
        """
        decoder = msgspec.json.Decoder(into)
        for attempt in range(LIST_AGAIN + 1):
            limit = page if attempt < LIST_AGAIN else 0
            try:
                return await self._list_once(resource, namespace, decoder, selectors(labels, fields), limit)
            except ApiServerError as error:
                if error.status != 410 or not limit:
                    raise
        raise AssertionError("unreachable")

    async def _list_once(
        self,
        resource: Resource,
        namespace: str,
        decoder: msgspec.json.Decoder[T],
        chosen: Mapping[str, str],
        limit: int,
    ) -> Listed[T]:
        found: Listed[T] = Listed([], "")
        rest = ""
        while True:
            query = {**chosen, **({"limit": str(limit)} if limit else {})}
            if rest:
                query["continue"] = rest
            question = Question(what("list", resource, namespace), "GET", resource.path(namespace), query)
            body = await self._asking.answer(question)
            try:
                page = page_of(body, decoder)
            except msgspec.DecodeError as error:
                raise ApiServerError(question.what, 200, "", f"the answer is no list: {error}") from error
            found.items.extend(page.items)
            if not page.rest:
                return Listed(found.items, page.resource_version)
            rest = page.rest

    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str = "",
        *,
        into: type[T],
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[Batch[T], None]:
        """Changes after ``resource_version``, those that came together as one batch; the first is empty: it stands.

        Ends when the server ends it (it does so every few minutes). Bookmarks move the resource version on.

        Raises:
            ApiServerError: among others 410, that version is forgotten: list again. ApiServerUnreachable: the connection
            broke. What was yielded counts.
        """
        seconds = random.randint(*WATCH_S)  # noqa: S311 - spreads load
        query = {
            **selectors(labels, fields),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        question = Question(what("watch", resource, namespace), "GET", resource.path(namespace), query)
        decoder = msgspec.json.Decoder(into)
        async with self._asking.stream(question, seconds) as pieces:
            yield []
            async with aclosing(changes(question.what, pieces, decoder)) as found:
                async for batch in found:
                    yield batch

    async def create(
        self,
        resource: Resource,
        body: object,
        namespace: str = "",
        *,
        into: type[T],
        dry_run: bool = False,
        field_manager: str = "",
        name: str = "",
        subresource: str = "",
    ) -> T:
        """The object as it was created. ``name`` and ``subresource``: for those that are created on an object (eviction)."""
        query = writing(dry_run, field_manager)
        question = Question(
            what("create", resource, namespace, name or name_in(body), subresource),
            "POST",
            resource.path(namespace, name, subresource),
            query,
            msgspec.json.encode(body),
            "application/json",
        )
        return decoded(await self._asking.answer(question), into, question)

    async def replace(
        self,
        resource: Resource,
        name: str,
        body: object,
        namespace: str = "",
        *,
        into: type[T],
        subresource: str = "",
    ) -> T:
        """The object as it is now; 409 Conflict: it changed since the resource version in ``body``."""
        question = Question(
            what("update", resource, namespace, name, subresource),
            "PUT",
            resource.path(namespace, name, subresource),
            {},
            msgspec.json.encode(body),
            "application/json",
        )
        return decoded(await self._asking.answer(question), into, question)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: object,
        namespace: str = "",
        *,
        into: type[T],
        kind: str = MERGE,
        field_manager: str = "",
        force: bool = False,
        dry_run: bool = False,
        subresource: str = "",
    ) -> T:
        """The object as it is now. ``kind``: MERGE, JSON (a list of operations), STRATEGIC or APPLY.

        APPLY needs ``field_manager``, makes what does not exist, and with ``force`` takes fields that others own.
        """
        query = writing(dry_run, field_manager)
        if force:
            query["force"] = "true"
        question = Question(
            what("patch", resource, namespace, name, subresource),
            "PATCH",
            resource.path(namespace, name, subresource),
            query,
            msgspec.json.encode(body),  # JSON is YAML
            kind,
        )
        return decoded(await self._asking.answer(question), into, question)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "Background",
        grace_s: int | None = None,
        missing_ok: bool = True,
    ) -> None:
        """``name`` is gone, or on its way. ``propagation``: of what it owns (Background, Foreground, Orphan)."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        question = Question(
            what("delete", resource, namespace, name),
            "DELETE",
            resource.path(namespace, name),
            {},
            msgspec.json.encode(body),
            "application/json",
        )
        try:
            await self._asking.answer(question)
        except ApiServerError as error:
            if error.status != 404 or not missing_ok:
                raise

    async def delete_all(
        self, resource: Resource, namespace: str, *, labels: str = "", fields: str = ""
    ) -> None:
        """What the selectors name in ``namespace`` is gone, or on its way."""
        path = resource.path(namespace)
        query = selectors(labels, fields)
        await self._asking.answer(
            Question(what("deletecollection", resource, namespace), "DELETE", path, query)
        )
