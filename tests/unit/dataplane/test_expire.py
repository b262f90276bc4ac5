"""How often flows are expired."""

from __future__ import annotations

import pytest

from meshd.dataplane.pod_network.expire import OFTEN_S, RARELY_S, pause_s


@pytest.mark.parametrize(("fullness", "expected"), [(0.0, RARELY_S), (0.5, 5.25), (1.0, OFTEN_S)])
def test_the_fuller_the_table_the_sooner_it_is_walked_again(fullness: float, expected: float) -> None:
    assert pause_s(fullness) == pytest.approx(expected)
