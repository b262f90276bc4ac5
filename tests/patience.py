"""How long tests wait before they take it that something will never come: longer where everything is slower.

None of it is a measure of anything: it is reached only when something hangs.
"""

from __future__ import annotations

import os

# How many times longer everything may take here than on a machine of its own; scripts/kernels says so to its guests.
SLOWNESS = int(os.environ.get("MESHD_TEST_SLOWNESS", "1"))


def patience(seconds: float) -> float:
    """``seconds`` of a machine of its own, in seconds here."""
    return seconds * SLOWNESS
