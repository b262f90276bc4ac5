"""Making a lab from beginning to end: it stands whole, or nothing of it is left."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from meshd.lab.down import sweep
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from meshd.lab.record import LabError, held
from meshd.lab.spec import LabSpec
from meshd.lab.up import Say, on_thread, up

# How a user, a terminal that closes and a system that stops end a process.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def bring_up(places: Places, spec: LabSpec, say: Say) -> int:
    """Makes the lab and leaves it; 0. Interrupted or failed, it is taken down again and the reason raised."""
    begun = time.monotonic()
    with held(places):
        if places.record.exists():
            raise LabError(
                f"lab {places.id} is there already; `meshctl lab down --id {places.id}` removes it"
            )
        say(f"lab {places.id}")
        lab = Lab(places, spec)
        async with taken_down_on_failure(lab, say):
            await up(lab, say)
            lab.keep_as("up")
    say(f"lab {places.id} is up after {time.monotonic() - begun:.1f} s; `meshctl lab down` removes it")
    return 0


@asynccontextmanager
async def taken_down_on_failure(lab: Lab, say: Say) -> AsyncIterator[None]:
    """Whatever goes wrong inside, nothing of the lab is left when it comes out. Labs of the dead go first."""
    try:
        await on_thread(sweep_and_say, lab.places, say)
        yield
    except BaseException:
        take_down_now(lab, say)
        raise


def sweep_and_say(places: Places, say: Say) -> None:
    for left in sweep(places):
        say(f"lab {left} was left behind by a process that died; it is removed")


def take_down_now(lab: Lab, say: Say) -> None:
    """Takes the lab down whatever else comes in meanwhile: a second Ctrl-C would leave half of it."""
    old = [(number, signal.signal(number, signal.SIG_IGN)) for number in ENDING]
    # The terminal or pipe may be what went away.
    with suppress(OSError):
        say(f"taking lab {lab.places.id} down")
    lab.take_down()
    for number, handler in old:
        signal.signal(number, handler)
