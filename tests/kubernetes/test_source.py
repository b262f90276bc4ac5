"""The source `kubernetes` against a real API server: what it has arrives, and no trouble of its takes anything away."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from meshd.model import Service, ServiceName, format_address
from meshd.model.address import format_endpoint
from meshd.sources.kubernetes.source import SOURCE
from meshd.state import SourceState
from tests.kubernetes.api_server import ApiServerAlone
from tests.kubernetes.following import Following, following, part, service

SLICES = "endpointslices.discovery.k8s.io"
READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [services, nodes, namespaces, pods], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects:
- {kind: User, name: reader, apiGroup: rbac.authorization.k8s.io}
- {kind: ServiceAccount, name: agent, namespace: default}
"""


@pytest.fixture
def space(api_server: ApiServerAlone, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, whose objects are gone after it."""
    name = request.node.name.replace("_", "-")[5:60].rstrip("-")
    api_server.kubectl("create", "namespace", name)
    yield name
    # There is no controller that would empty a namespace that goes.
    api_server.kubectl("delete", "services,endpointslices", "--all", "--namespace", name)


async def put(api_server: ApiServerAlone, text: str) -> None:
    await asyncio.to_thread(api_server.kubectl, "apply", "-f", "-", content=text)


def found(mesh: Following, namespace: str, name: str) -> Service:
    value = mesh.mesh.service(ServiceName(namespace, name))
    assert value is not None
    return value


async def test_services_slices_and_nodes_arrive(api_server: ApiServerAlone, space: str) -> None:
    await put(api_server, service(space, "web", type="NodePort", ipFamilyPolicy="RequireDualStack"))
    await put(api_server, part(space, "web", "10.1.0.1", "10.1.0.2"))
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.1.0.0/24"},
    }
    await put(api_server, yaml.safe_dump(node))
    patch = '{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}'
    api_server.kubectl("patch", "node", "n1", "--subresource=status", "--type=merge", "-p", patch)
    async with following(api_server.admin) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        assert mesh.backends(space, "web") == ["10.1.0.1", "10.1.0.2"]
        web = found(mesh, space, "web")
        assert sorted(format_address(each.address)[:5] for each in web.frontends) == ["10.96", "fd96:"]
        (dialled,) = web.external
        assert format_endpoint(dialled.address, 0) == "192.0.2.1:0"
        assert 30000 <= dialled.port <= 32767


async def test_changes_arrive_one_by_one(api_server: ApiServerAlone, space: str) -> None:
    await put(api_server, service(space, "web"))
    async with following(api_server.admin) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        await put(api_server, part(space, "web", "10.1.0.1"))
        await mesh.until(lambda: mesh.backends(space, "web") == ["10.1.0.1"])
        await put(api_server, part(space, "web", "10.1.0.2"))
        await mesh.until(lambda: mesh.backends(space, "web") == ["10.1.0.2"])
        api_server.kubectl("delete", "endpointslice", "web-1", "--namespace", space)
        await mesh.until(lambda: mesh.backends(space, "web") == [])
        assert mesh.health(SLICES).lists == 1


# One that is stopped waits a minute for those who watch.
@pytest.mark.parametrize("how", ["kill", pytest.param("stop", marks=pytest.mark.long)])
async def test_an_api_server_that_goes_and_comes_takes_nothing_away(
    api_server: ApiServerAlone, how: str
) -> None:
    space = f"restart-{how}"
    api_server.kubectl("create", "namespace", space)
    for name in ("web", "gone"):
        await put(api_server, service(space, name))
        await put(api_server, part(space, name, "10.1.0.1"))
    async with following(api_server.admin) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        mesh.gone.clear()
        await asyncio.to_thread(getattr(api_server, how))
        await mesh.until(lambda: len(mesh.source.problems()) == 5)
        assert mesh.state is SourceState.STALE
        assert "away since 20" in mesh.mesh.sources[SOURCE].reason
        assert mesh.backends(space, "web") == ["10.1.0.1"]
        await asyncio.to_thread(api_server.start)
        await asyncio.to_thread(
            api_server.kubectl, "delete", "service/gone", "endpointslice/gone-1", "--namespace", space
        )
        await put(api_server, part(space, "web", "10.1.0.1", "10.1.0.9"))
        await mesh.until(lambda: mesh.backends(space, "web") == ["10.1.0.1", "10.1.0.9"])
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE and len(mesh.gone) == 2)
        assert {str(key[1]) for key in mesh.gone if isinstance(key, tuple)} == {f"{space}/gone"}
        assert mesh.source.problems() == []


async def test_what_happened_before_etcd_forgot_it_is_found_by_listing(
    api_server: ApiServerAlone, space: str
) -> None:
    for name in ("web", "gone"):
        await put(api_server, service(space, name))
        await put(api_server, part(space, name, "10.1.0.1"))
    async with following(api_server.admin) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        mesh.gone.clear()
        lists = mesh.health(SLICES).lists
        await asyncio.to_thread(api_server.kubectl, "delete", "endpointslice", "gone-1", "--namespace", space)
        await mesh.until(lambda: len(mesh.gone) == 1)
        # Something that no informer hears of, or there would be nothing between what they heard and what is forgotten.
        await asyncio.to_thread(api_server.kubectl, "create", "configmap", "later", "--namespace", space)
        await asyncio.to_thread(api_server.kill)
        await asyncio.to_thread(compact, api_server)
        await asyncio.to_thread(api_server.start)
        await put(api_server, part(space, "web", "10.1.0.7"))
        await mesh.until(lambda: mesh.backends(space, "web") == ["10.1.0.7"])
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        assert mesh.health(SLICES).lists > lists
        assert len(mesh.gone) == 1


async def test_who_may_not_read_is_told_what_and_nothing_else_is_lost(
    api_server: ApiServerAlone, space: str
) -> None:
    await put(api_server, service(space, "web"))
    await put(api_server, part(space, "web", "10.1.0.1"))
    reader = api_server.client("reader")
    async with following(reader) as mesh:
        await mesh.until(lambda: len(mesh.source.problems()) == 5)
        wanted = 'services is forbidden: User "reader" cannot list resource "services" in API group "" at the cluster scope'
        assert any(each.endswith(wanted) for each in mesh.source.problems())
        await put(api_server, READER)
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        assert mesh.backends(space, "web") == ["10.1.0.1"]
        # One verb on one resource taken away again: that resource is named, and stands.
        await put(
            api_server,
            READER.replace("[endpointslices], verbs: [list, watch]", "[endpointslices], verbs: [list]"),
        )
        await asyncio.to_thread(api_server.kill)
        await asyncio.to_thread(api_server.start)
        await mesh.until(lambda: mesh.state is SourceState.STALE and len(mesh.source.problems()) == 1)
        (problem,) = mesh.source.problems()
        assert f"{SLICES} away since" in problem
        assert 'cannot watch resource "endpointslices"' in problem
        assert mesh.backends(space, "web") == ["10.1.0.1"]


async def test_a_rotated_token_is_used_as_soon_as_the_old_one_is_refused(
    api_server: ApiServerAlone, space: str, tmp_path: Path
) -> None:
    await put(api_server, READER)
    api_server.kubectl("create", "serviceaccount", "agent")
    for name in ("first", "second"):
        api_server.kubectl("create", "secret", "generic", name)

    def token(name: str) -> str:
        bound = ("--bound-object-kind=Secret", f"--bound-object-name={name}")
        return api_server.kubectl("create", "token", "agent", *bound)

    config = yaml.safe_load(api_server.admin.read_text())
    config["users"][0]["user"] = {"tokenFile": "token"}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    (tmp_path / "token").write_text(token("first"))
    async with following(path) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        # A token lives as long as what it is bound to.
        await asyncio.to_thread(api_server.kubectl, "delete", "secret", "first")
        (tmp_path / "new").write_text(await asyncio.to_thread(token, "second"))
        (tmp_path / "new").rename(tmp_path / "token")
        await asyncio.to_thread(api_server.kill)
        await asyncio.to_thread(api_server.start)
        await put(api_server, service(space, "web"))
        await put(api_server, part(space, "web", "10.1.0.1"))
        await mesh.until(lambda: mesh.backends(space, "web") == ["10.1.0.1"])
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)


async def test_an_external_address_is_refused_by_the_rules_and_the_service_says_so(
    api_server: ApiServerAlone, space: str
) -> None:
    await put(api_server, service(space, "old", externalIPs=["203.0.113.7"]))
    async with following(api_server.admin) as mesh:
        await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
        address = format_address(found(mesh, space, "old").frontends[0].address)
        # Creation times have seconds; of the same one the name decides, and "old" is before "thief".
        await put(api_server, service(space, "thief", externalIPs=["203.0.113.7", "8.8.8.8"]))
        await mesh.until(lambda: mesh.mesh.service(ServiceName(space, "thief")) is not None)
        assert [format_endpoint(each.address, each.port) for each in found(mesh, space, "old").external] == [
            "203.0.113.7:80"
        ]
        assert found(mesh, space, "thief").external == ()
        assert len(found(mesh, space, "thief").remarks) == 2
        patch = f'{{"spec":{{"externalIPs":["{address}"]}}}}'
        api_server.kubectl("patch", "service", "thief", "--namespace", space, "-p", patch)
        await mesh.until(lambda: len(found(mesh, space, "thief").remarks) == 1)
        assert found(mesh, space, "thief").external == ()


def compact(api_server: ApiServerAlone) -> None:
    """Make etcd forget everything but the present."""
    etcdctl = ["etcdctl", f"--endpoints={api_server.etcd.url}"]
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    status = subprocess.run(
        [*etcdctl, "endpoint", "status", "-w", "json"], env=environment, capture_output=True, check=True
    )
    revision = yaml.safe_load(status.stdout)[0]["Status"]["header"]["revision"]
    subprocess.run(
        [*etcdctl, "compact", str(revision), "--physical"], env=environment, capture_output=True, check=True
    )
