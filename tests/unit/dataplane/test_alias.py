from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.dataplane.alias import ALWAYS, AliasSlot, alias_slots


def shares(slots: list[AliasSlot]) -> list[Fraction]:
    """How often each choice is drawn."""
    found = [Fraction(0)] * len(slots)
    for index, slot in enumerate(slots):
        own = Fraction(slot.threshold + 1, ALWAYS + 1)
        found[index] += own / len(slots)
        found[slot.alias] += (1 - own) / len(slots)
    return found


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=200))
def test_every_choice_is_drawn_as_often_as_its_weight_says(weights: list[int]) -> None:
    for weight, share in zip(weights, shares(alias_slots(weights)), strict=True):
        assert abs(share - Fraction(weight, sum(weights))) <= Fraction(1, 2**31)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_equal_weights_need_no_alias(count: int) -> None:
    assert alias_slots([5] * count) == [AliasSlot(ALWAYS, index) for index in range(count)]
