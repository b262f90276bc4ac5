"""How long tests wait before they take it that something will never come: longer where everything is slower.

None of it is a measure of anything: it is reached only when something hangs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

# How many times longer everything may take here than on a machine of its own; scripts/kernels says so to its guests.
SLOWNESS = int(os.environ.get("MESHD_TEST_SLOWNESS", "1"))


def patience(seconds: float) -> float:
    """``seconds`` of a machine of its own, in seconds here."""
    return seconds * SLOWNESS


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once it holds; AssertionError if that takes longer than ``seconds`` of a machine of its own."""
    deadline = time.monotonic() + patience(seconds)
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)
