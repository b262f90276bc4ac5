"""What an API server says in cases that a real one does not produce on demand: storms of 410, watches that close at once,
half a line, refusals. It keeps resource versions, pages and history as a real one does; everything else is tested with one.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from meshd.kubeapi.resources import Resource

Object = dict[str, Any]  # Any: JSON
Handler = Callable[[web.Request], web.StreamResponse | None]


class FakeApiServer:
    """``asked``: every request. ``intervene``: asked first, a response it gives is the answer."""

    def __init__(self, url: str = "") -> None:
        self.version = 100
        # Watches from before this version are refused with 410.
        self.floor = 0
        self.asked: list[web.Request] = []
        self.intervene: Handler = lambda request: None
        # Watches end at once, cleanly.
        self.closes_at_once = False
        # Bytes that every watch is sent first.
        self.prefix = b""
        self.url = url
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._history: list[tuple[int, str, str, Object]] = []
        self._moved = asyncio.Event()
        self._end = asyncio.Event()

    # What a test does

    def put(self, resource: Resource, body: Object) -> None:
        """Create or change an object."""
        self.version += 1
        path, key = resource.path(), self._key(body)
        known = self._objects.setdefault(path, {})
        kind = "MODIFIED" if key in known else "ADDED"
        made = copy.deepcopy(body)
        made["metadata"]["resourceVersion"] = str(self.version)
        known[key] = made
        self._tell(path, kind, made)

    def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Delete an object."""
        self.version += 1
        path = resource.path()
        gone = copy.deepcopy(self._objects[path].pop((namespace, name)))
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell(path, "DELETED", gone)

    def bookmark(self, resource: Resource) -> None:
        """Tell watches of ``resource`` how far time is."""
        self.version += 1
        body = {"kind": resource.kind, "metadata": {"resourceVersion": str(self.version)}}
        self._tell(resource.path(), "BOOKMARK", body)

    def compact(self) -> None:
        """Forget what happened before now."""
        self.version += 1
        self.floor = self.version

    def end_watches(self) -> None:
        """All of them, in the middle of the answer."""
        self._end.set()
        self._end = asyncio.Event()

    def count(self, path: str, *, watch: bool) -> int:
        """How many lists, or watches, of ``path`` were asked for."""
        return sum(1 for each in self.asked if each.path == path and ("watch" in each.query) == watch)

    # What it does

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request."""
        self.asked.append(request)
        found = self.intervene(request)
        if found is not None:
            return found
        if "watch" in request.query:
            return await self._watch(request)
        if request.path in self._objects or request.path.count("/") in (3, 4):
            return self._list(request)
        return status(404, "NotFound", f"{request.path} not found")

    def _list(self, request: web.Request) -> web.Response:
        begin, at = 0, self.version
        if "continue" in request.query:
            begin, at = (int(part) for part in request.query["continue"].split(":"))
            if at < self.floor:
                return status(410, "Expired", "the continue token is too old")
        limit = int(request.query.get("limit", 0)) or 10**9
        objects = sorted(self._objects.get(request.path, {}).items())
        metadata: Object = {"resourceVersion": str(at)}
        if begin + limit < len(objects):
            metadata["continue"] = f"{begin + limit}:{at}"
        return web.json_response(
            {"metadata": metadata, "items": [each for _, each in objects[begin : begin + limit]]}
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        position = int(request.query["resourceVersion"])
        if position < self.floor:
            return status(410, "Expired", f"too old resource version: {position} ({self.floor})")
        response = web.StreamResponse()
        await response.prepare(request)
        if self.prefix:
            await response.write(self.prefix)
        if self.closes_at_once:
            return response
        end = self._end
        while True:
            moved = self._moved
            for version, path, kind, body in self._history:
                if path == request.path and version > position:
                    position = version
                    await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
            waits = [asyncio.ensure_future(each.wait()) for each in (moved, end)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if end.is_set():
                if request.transport is not None:
                    request.transport.abort()
                return response

    def _tell(self, path: str, kind: str, body: Object) -> None:
        self._history.append((self.version, path, kind, body))
        self._moved.set()
        self._moved = asyncio.Event()

    @staticmethod
    def _key(body: Object) -> tuple[str, str]:
        return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def status(code: int, reason: str, message: str, **headers: str) -> web.Response:
    """A refusal as API servers word it."""
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}
    return web.json_response(body, status=code, headers=headers)


@asynccontextmanager
async def serving(
    server: FakeApiServer, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[FakeApiServer]:
    """``server`` listens at ``server.url``."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    # A handler ends with its connection, as a watch does when its client goes.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        server.end_watches()
        await runner.cleanup()
