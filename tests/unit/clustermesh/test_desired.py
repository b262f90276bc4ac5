"""What a cluster wants in etcd, in the form or forms in which it exports services."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from clustermesh import keys
from clustermesh.channel import parse_endpoint
from clustermesh.desired import DesiredServices
from clustermesh.errors import OptionsError
from clustermesh.kv import Kv
from clustermesh.publisher import Publisher
from clustermesh.records import SERVICES, SERVICES_AND_SLICES, SLICES, ClusterConfig, ClusterService, Port


def service(count: int) -> ClusterService:
    first, ports = ip_address("10.0.0.0"), {"http": Port("TCP", 80)}
    return ClusterService("cm-1", "ns", "web", 1, backends={first + n: ports for n in range(count)})


VALUE = keys.service("cm-1", "ns", "web")
SLICE = keys.endpoint_slice("cm-1", "ns", "web-ipv4-0")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(SERVICES, {VALUE}), (SERVICES_AND_SLICES, {VALUE, SLICE}), (SLICES, {SLICE})],
)
def test_a_service_is_desired_in_the_forms_of_the_mode(mode: str, expected: set[str]) -> None:
    desired = DesiredServices("cm-1", 1, mode)
    desired.upsert(service(3))
    assert (set(desired.values), desired.services) == (expected, 1)
    desired.delete("ns", "web")
    assert (desired.values, desired.services) == ({}, 0)
    assert desired.named_deletes >= expected


def test_a_service_that_no_value_has_room_for_is_desired_as_slices_only() -> None:
    # Readers of either form are to see the same, so it is refused where one of them cannot say it; what was said stands.
    for mode in (SERVICES, SERVICES_AND_SLICES):
        desired = DesiredServices("cm-1", 1, mode)
        desired.upsert(service(3))
        before = dict(desired.values)
        refused = desired.replace([service(40_000)], complete=True)
        assert [(name, error.field) for name, error in refused.items()] == [("ns/web", "value")]
        assert desired.values == before
    desired = DesiredServices("cm-1", 1, SLICES)
    assert desired.replace([service(40_000)], complete=True) == {}
    assert len(desired.values) == 512


async def test_an_export_mode_that_is_none_is_refused() -> None:
    config = ClusterConfig(1, endpoint_slices_export_mode="telepathy")
    async with Kv([parse_endpoint("http://127.0.0.1:1")]) as kv:
        with pytest.raises(OptionsError, match="export mode 'telepathy' is none of"):
            Publisher(kv, "cm-1", config)
