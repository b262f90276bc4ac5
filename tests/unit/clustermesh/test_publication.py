"""What is written and what is deleted, decided without an etcd."""

from __future__ import annotations

import asyncio

import pytest

from clustermesh.errors import ClustermeshError, KvUnavailable, OptionsError
from clustermesh.keys import canary, cluster_name_problem, prefix_end, service
from clustermesh.publication import BATCH_KEYS, Held, batches, to_delete, to_put
from clustermesh.together import until_failure

OURS = {7}
HELD = {"same": Held(b"v", 7), "changed": Held(b"old", 7), "foreign": Held(b"v", 8), "in-vain": Held(b"v", 7)}
DESIRED = {"same": b"v", "changed": b"new", "foreign": b"v", "absent": b"v"}


def test_what_is_absent_different_or_on_a_foreign_lease_is_put() -> None:
    assert to_put(DESIRED, HELD, sorted({*HELD, *DESIRED}), OURS) == ["absent", "changed", "foreign"]


@pytest.mark.parametrize(
    ("complete", "named", "expected"),
    [
        (True, set(), ["in-vain"]),
        (False, set(), []),
        (False, {"in-vain"}, ["in-vain"]),
        (False, {"same"}, []),
    ],
)
def test_what_is_held_in_vain_goes_only_when_that_is_known(
    complete: bool, named: set[str], expected: list[str]
) -> None:
    assert to_delete(DESIRED, HELD, sorted(HELD), complete=complete, named=named) == expected


def test_batches_keep_the_order_and_fit_a_transaction() -> None:
    values = {f"{number:04}": b"x" * (700_000 if number == 3 else 10) for number in range(250)}
    cut = list(batches(values, values))
    assert [key for batch in cut for key in batch] == list(values)
    assert max(map(len, cut)) == BATCH_KEYS
    large = {f"{number}": b"x" * 700_000 for number in range(4)}
    assert list(batches(large, large)) == [["0"], ["1"], ["2"], ["3"]]


def test_keys_are_those_of_the_format() -> None:
    assert service("cm-1", "ns", "svc") == "cilium/state/services/v1/cm-1/ns/svc"
    assert canary("cm-1", "ip") == "cilium/synced/cm-1/cilium/state/ip/v1"
    assert canary("cm-1", "services", cached=True) == "cilium/synced/cm-1/cilium/cache/services/v1"


@pytest.mark.parametrize(("prefix", "end"), [(b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0")])
def test_the_end_of_a_prefix_is_the_first_key_behind_it(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


@pytest.mark.parametrize("name", ["a", "cm-1", "0", "a" * 32])
def test_a_name_of_a_cluster_is_accepted(name: str) -> None:
    assert cluster_name_problem(name) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a/b", "a" * 33, "default"])
def test_a_name_that_is_none_of_a_cluster_is_not_accepted(name: str) -> None:
    assert cluster_name_problem(name)


async def forever(stopped: list[str]) -> None:
    """Note being stopped."""
    try:
        await asyncio.Event().wait()
    finally:
        stopped.append("stopped")


async def failing(error: Exception) -> None:
    """Fail at once."""
    raise error


async def test_the_first_failure_stops_the_other_parts_and_is_returned() -> None:
    stopped: list[str] = []
    failure = KvUnavailable("get", "k", "gone")
    assert await until_failure(forever(stopped), failing(failure)) is failure
    assert stopped == ["stopped"]


async def test_a_failure_that_is_not_ours_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await until_failure(forever([]), failing(ZeroDivisionError()))


async def test_being_cancelled_stops_all_parts_also_while_one_fails() -> None:
    stopped: list[str] = []
    task = asyncio.create_task(until_failure(forever(stopped), failing(OptionsError("x"))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped in (["stopped"], [])


async def test_a_part_that_ends_is_a_failure() -> None:
    assert isinstance(await until_failure(asyncio.sleep(0)), ClustermeshError)
