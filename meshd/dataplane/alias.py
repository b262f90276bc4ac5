"""A weighted choice in one draw, whatever the number of choices: Walker's alias method (1974), with Vose's set-up (1991).

Slot i is drawn evenly; a second random 32-bit number r gives i itself if r <= threshold, else the slot's alias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ALWAYS = 0xFFFFFFFF


class AliasSlot(NamedTuple):
    threshold: int
    alias: int


def alias_slots(weights: Sequence[int]) -> list[AliasSlot]:
    """One slot per weight (all > 0). The choice is exact to 2**-32 a slot.

    >>> alias_slots([1, 1])
    [AliasSlot(threshold=4294967295, alias=0), AliasSlot(threshold=4294967295, alias=1)]
    """
    slots = [AliasSlot(ALWAYS, index) for index in range(len(weights))]
    if min(weights) == max(weights):
        return slots
    count, total = len(weights), sum(weights)
    shares = [weight * count for weight in weights]
    small = [index for index, share in enumerate(shares) if share < total]
    large = [index for index, share in enumerate(shares) if share > total]
    while small and large:
        low, high = small.pop(), large[-1]
        slots[low] = AliasSlot(max(shares[low] * (ALWAYS + 1) // total - 1, 0), high)
        shares[high] -= total - shares[low]
        if shares[high] <= total:
            large.pop()
            if shares[high] < total:
                small.append(high)
    return slots
