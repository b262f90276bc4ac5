"""Rounds of work that every change asks for: the first at once, those of a storm together.

A grace period or a look at all records costs a worker thread the same, whatever it is for: with 100 changes a second, one
round for each is a quarter of all that the agent does.
"""

from __future__ import annotations

import asyncio

# From one beginning to the next. Sockets of a backend that went, and room in a full map, wait so much longer in a storm.
SPACING_S = 0.1


class Spacing:
    """Of one kind of round."""

    def __init__(self, spacing_s: float = SPACING_S) -> None:
        self._spacing_s = spacing_s
        self._next_s = 0.0

    async def wait(self) -> None:
        """Until the next round may begin; it does when this returns."""
        loop = asyncio.get_running_loop()
        rest_s = self._next_s - loop.time()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        self._next_s = loop.time() + self._spacing_s
