"""One question to an API server and its answer: a body at once, or pieces for as long as the server has something to say.

What the server says no to becomes an error here; what questions and answers mean is the client's business (client.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

from meshd.errors import ApiServerError, ApiServerUnreachable
from meshd.kubeapi.access import Access
from meshd.kubeapi.answers import refusal
from meshd.kubeapi.transport import BROKEN, Heard, Question, Transport, described

# Kubernetes' default of how long a server may want to be left alone before we tell our caller instead.
RETRY_AFTER_MOST_S = 5.0


class Asking:
    """Use as ``async with``. ``timeout_s``: for a question with its answer; ``silence_s``: between pieces of a stream.

    Both methods raise ApiServerError: it answered with a refusal; ApiServerUnreachable: nobody answered (a change may have
    been made); ConfigError: the credentials cannot be read.
    """

    def __init__(self, access: Access, user_agent: str, timeout_s: float, silence_s: float) -> None:
        self._transport = Transport(access, user_agent)
        self._timeout_s = timeout_s
        self._silence_s = silence_s

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    @property
    def endpoint(self) -> str:
        """The API server that is asked next."""
        return self._transport.endpoint

    async def answer(self, question: Question) -> bytes:
        """The body of a good answer. A server that asks to be left alone for a moment is, and asked again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout_s
        while True:
            try:
                return await self._answer_once(question, max(end - loop.time(), 1.0))
            except ApiServerError as error:
                # 429 and 503 with Retry-After: it did nothing of what was asked (Kubernetes API conventions).
                wait_s = error.retry_after_s
                asks = error.status in (429, 503) and wait_s is not None and wait_s <= RETRY_AFTER_MOST_S
                if wait_s is None or not asks or loop.time() + wait_s >= end:
                    raise
                await asyncio.sleep(wait_s)

    @asynccontextmanager
    async def stream(self, question: Question, seconds: float) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The pieces of a good answer as they come, for ``seconds`` and the time that an answer may take.

        The pieces raise ApiServerUnreachable when the connection breaks; what came before counts.
        """
        timeout_s = seconds + self._timeout_s
        async with self._transport.ask(question, timeout_s=timeout_s, read_s=self._silence_s) as heard:
            if heard.response.status != 200:
                raise self._refusal(question, heard, await _body(question, heard))
            async with aclosing(_pieces(question, heard)) as pieces:
                yield pieces

    async def _answer_once(self, question: Question, timeout_s: float) -> bytes:
        async with self._transport.ask(question, timeout_s=timeout_s) as heard:
            body = await _body(question, heard)
            if heard.response.status >= 300:
                raise self._refusal(question, heard, body)
            return body

    def _refusal(self, question: Question, heard: Heard, body: bytes) -> ApiServerError:
        """An API server that fails is not the next one to be asked, if there is another."""
        response = heard.response
        if response.status >= 500:
            self._transport.next_endpoint(heard.endpoint)
        return refusal(question.what, response.status, body, response.headers.get("Retry-After", ""))


async def _body(question: Question, heard: Heard) -> bytes:
    try:
        return await heard.response.read()
    except BROKEN as error:
        raise _broken(question, heard, error) from error


async def _pieces(question: Question, heard: Heard) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in heard.response.content.iter_any():
            yield piece
    except BROKEN as error:
        raise _broken(question, heard, error) from error


def _broken(question: Question, heard: Heard, error: BaseException) -> ApiServerUnreachable:
    return ApiServerUnreachable(question.what, {heard.endpoint: described(error)})
