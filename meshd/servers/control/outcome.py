"""Answers to changes that wait until the kernel holds them, within the caller's time."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from meshd.errors import NotSettled
from meshd.state import Mesh, PlanKey

Context = grpc.aio.ServicerContext[Any, Any]  # Any: every method has its own messages

# Of the caller's time, kept for the way of the answer: the sentence must arrive before the caller's own clock cuts in.
ANSWER_SHARE = 0.1
ANSWER_MIN_S = 0.05


async def until_settled(mesh: Mesh, context: Context, revision: int, key: PlanKey, object_name: str) -> None:
    """Until the kernel holds ``key`` as it was at ``revision``.

    Raises:
        RowsFailed: it could not be written; names the rows. It is retried.
        NotSettled: the caller's deadline came first.
    """
    try:
        async with asyncio.timeout(time_left(context)):
            await mesh.settled(revision, [key])
    except TimeoutError:
        raise NotSettled(object_name, revision) from None


def time_left(context: Context) -> float | None:
    """How long the caller can be let wait; None: he set no time."""
    remaining = context.time_remaining()
    return None if remaining is None else max(0.0, remaining - max(ANSWER_MIN_S, remaining * ANSWER_SHARE))
