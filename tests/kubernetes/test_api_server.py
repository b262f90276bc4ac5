"""The API server that other tests are given: it is a real one, and it comes back as itself."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes.api_server import ApiServerAlone

pytestmark = pytest.mark.timeout(400)
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]},
}


@pytest.fixture
def service(api_server: ApiServerAlone) -> str:
    """The name of a service in namespace default."""
    body = {**SERVICE, "metadata": {"generateName": "web-"}}
    return api_server.kubectl("create", "-f", "-", "-o", "name", content=json.dumps(body)).strip()


def test_it_is_the_kubernetes_that_the_tree_says(api_server: ApiServerAlone) -> None:
    versions = json.loads(api_server.kubectl("version", "-o", "json"))
    assert versions["serverVersion"]["gitVersion"] == versions["clientVersion"]["gitVersion"] == "v1.36.3"


def test_services_get_addresses_of_both_families(api_server: ApiServerAlone, service: str) -> None:
    families = json.loads(api_server.kubectl("get", service, "-o", "json"))["spec"]["ipFamilies"]
    assert sorted(families) == ["IPv4", "IPv6"]


@pytest.mark.parametrize("end", [ApiServerAlone.stop, ApiServerAlone.kill], ids=["stopped", "killed"])
def test_it_comes_back_where_it_was_with_what_it_had(
    api_server: ApiServerAlone, service: str, end: object
) -> None:
    assert callable(end)
    before = api_server.url
    end(api_server)
    api_server.start()
    assert api_server.url == before
    assert api_server.kubectl("get", service, "-o", "name").strip() == service


def test_a_client_without_roles_may_read_nothing(api_server: ApiServerAlone) -> None:
    stranger = api_server.client("stranger")
    with pytest.raises(AssertionError, match="forbidden"):
        api_server.kubectl(f"--kubeconfig={stranger}", "get", "services")
