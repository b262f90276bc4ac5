"""The first round begins at once, those of a storm as often as they may."""

from __future__ import annotations

import asyncio

from meshd.dataplane.spacing import Spacing


async def test_the_first_round_waits_for_nothing_and_the_next_ones_for_their_turn() -> None:
    loop = asyncio.get_running_loop()
    spacing = Spacing(0.05)
    first = asyncio.create_task(spacing.wait())
    await asyncio.sleep(0)
    assert first.done()
    began_s = loop.time()
    for _ in range(2):
        await spacing.wait()
    # Of the clock: a timer may fire a tick early.
    assert loop.time() - began_s > 0.09
