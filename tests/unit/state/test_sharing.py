"""Whether a service belongs to all clusters."""

from __future__ import annotations

import pytest

from meshd.model import Namespace, Service, ServiceName
from meshd.state import Mesh
from meshd.state.sharing import is_global


@pytest.mark.parametrize(
    ("service_says", "namespace_says", "expected"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        (True, None, True),
        (True, True, True),
        (True, False, False),
        (False, None, False),
        (False, True, False),
        (False, False, False),
    ],
)
def test_a_namespace_can_forbid_and_a_service_can_decline(
    service_says: bool | None, namespace_says: bool | None, expected: bool
) -> None:
    mesh = Mesh()
    service = Service(ServiceName("galaxy", "web"), "manifests", is_global=service_says)
    mesh.apply("manifests", [service, Namespace("galaxy", "manifests", namespace_says)])
    assert is_global(mesh, service) is expected


def test_a_service_in_a_namespace_nobody_described_decides_for_itself() -> None:
    assert is_global(Mesh(), Service(ServiceName("galaxy", "web"), "api", is_global=True))
