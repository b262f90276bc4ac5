"""Long-running parts that stand and fall together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from clustermesh.errors import ClustermeshError


async def until_failure(
    *parts: Coroutine[Any, Any, object],
) -> ClustermeshError:  # Any: what a coroutine is sent
    """Run ``parts`` side by side until one raises an error of ours; stop the others and return that error.

    An error that is not ours is raised as it is. Being cancelled stops all parts and stays being cancelled.
    """
    # Not a TaskGroup: that of Python 3.11 forgets a cancellation that meets a failing part in the same moment.
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failures = [error for task in tasks if task in done and (error := task.exception()) is not None]
    for error in failures:
        if not isinstance(error, ClustermeshError):
            raise error
    if failures and isinstance(failures[0], ClustermeshError):
        return failures[0]
    return ClustermeshError("a part that should run for ever came to an end")
