from __future__ import annotations

import json

from meshd.bench.population import BACKEND_NETWORK, manifests, population
from tests.unit.bench.addresses import address


def test_a_smaller_population_is_the_beginning_of_a_larger_one() -> None:
    assert population(3) == population(50)[:3]


def test_no_address_is_used_twice_and_every_backend_is_where_the_server_answers() -> None:
    services = population(10_000)
    backends = [backend for service in services for backend in service.backends]
    assert len(services) == len({service.address for service in services})
    assert len(backends) == len(set(backends))
    assert all(address(backend) in BACKEND_NETWORK for backend in (backends[0], backends[-1]))
    assert all(address(service.address) not in BACKEND_NETWORK for service in (services[0], services[-1]))


def test_manifests_name_every_service_and_its_backends() -> None:
    (service,) = population(1)
    found = json.loads(manifests([service]))["items"]
    assert [each["kind"] for each in found] == ["Service", "EndpointSlice"]
    assert service.address == found[0]["spec"]["clusterIP"]
    assert [[each] for each in service.backends] == [each["addresses"] for each in found[1]["endpoints"]]
    assert service.name == found[1]["metadata"]["labels"]["kubernetes.io/service-name"]
