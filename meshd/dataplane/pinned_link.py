"""Links that outlive the agent: made once, pinned, and given new programs in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel.links import Link, LinkInfo
from meshd.kernel.program import Program


def attach_pinned(
    program: Program, pin: Path, is_there: Callable[[LinkInfo], bool], make: Callable[[], Link]
) -> Link:
    """The link at ``pin``, with ``program``: the one that is there, if it acts where it shall, else a new one in its place.

    The new link is attached before the old one goes.

    Raises:
        KernelError: what was attached before stays.
    """
    existing = Link.open_pinned(pin)
    if existing is not None and is_there(existing.info()):
        existing.update(program.fd)
        return existing
    made = make()
    try:
        _pin_over(made, pin)
    except KernelError:
        made.close()
        raise
    if existing is not None:
        existing.close()
    return made


def put_before(pin: Path, make: Callable[[], Link]) -> Link | None:
    """A new link at ``pin``, and the one that was there, which stays on for as long as it is held; None: there was none.

    Raises:
        KernelError: what was attached before stays.
    """
    existing = Link.open_pinned(pin)
    made = make()
    try:
        _pin_over(made, pin)
    finally:
        made.close()
    return existing


def take_off(pin: Path) -> bool:
    """Detaches the link at ``pin`` and removes the pin; False: there is none.

    Raises:
        KernelError: it could not be detached.
    """
    link = Link.open_pinned(pin)
    if link is None:
        return False
    link.detach()
    link.close()
    pin.unlink()
    return True


def _pin_over(link: Link, pin: Path) -> None:
    """Pins by rename, so that there is no instant without a pin."""
    beside = pin.with_name(f"{pin.name}_new")
    beside.unlink(missing_ok=True)
    link.pin(beside)
    os.rename(beside, pin)  # noqa: PTH104 - bpffs: a plain rename of a pin, nothing to gain from a Path
