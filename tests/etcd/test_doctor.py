"""`clustermesh doctor`: a mesh of two clusters with a real etcd is broken, and it is told what is wrong."""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from clustermesh import keys, membership
from clustermesh.access import access
from clustermesh.authority import Authority, Pair, write_pair
from clustermesh.channel import TlsFiles
from clustermesh.doctor import findings
from clustermesh.endpoint_slice import encode_slice
from clustermesh.examination import Files, examine, joined_files, now
from clustermesh.finding import Finding
from clustermesh.invitation import Cluster
from clustermesh.kv import Kv
from clustermesh.lease import Lease
from clustermesh.node_record import Node, encode_node
from clustermesh.publisher import Publisher, PublisherOptions
from clustermesh.records import SERVICES_AND_SLICES, encode_config, encode_service
from clustermesh.service_slices import slices_of
from clustermesh.whole_file import write
from tests.etcd.process import EtcdProcess
from tests.etcd.test_membership import clustermesh
from tests.etcd.test_publisher import CONFIG, running, service

TIMES = PublisherOptions(election_ttl_s=15, data_ttl_s=60, heartbeat_s=30)
DAY = datetime.timedelta(days=1)
SERVICES, OURS = "cilium/state/services/", "meshd/"


class Mesh:
    """Cluster cm-1 with an etcd and a publisher, and cm-2, which reads it."""

    def __init__(self, root: Path, etcd: EtcdProcess) -> None:
        self.one, self.two = root / "cm-1", root / "cm-2"
        self.etcd = etcd
        self.now = now

    async def start(self, *, restricted: bool = True) -> None:
        self.etcd.scheme = "https"
        for number, directory in enumerate((self.one, self.two), start=1):
            own = (ip_network(f"10.{number}.0.0/16"),)
            membership.init(directory, Cluster(f"cm-{number}", number, own, (self.etcd.url,), directory))
        below = self.one / "etcd"
        self.etcd.extra = [
            *("--cert-file", str(below / "etcd.crt"), "--key-file", str(below / "etcd.key")),
            *("--trusted-ca-file", str(below / "ca.crt"), "--client-cert-auth"),
        ]
        await self.etcd.start()
        if restricted:
            async with access([self.etcd.endpoint], self.admin) as users:
                await users.restrict("cm-1")
                await users.admit("cm-2")
        self.join()

    def join(self, valid: datetime.timedelta = 365 * DAY) -> None:
        membership.join(self.two, membership.invite(self.one, "cm-2", valid))

    @property
    def admin(self) -> TlsFiles:
        below = self.one / "client"
        return TlsFiles(below / "ca.crt", below / "admin.crt", below / "admin.key")

    @asynccontextmanager
    async def kv(self) -> AsyncIterator[Kv]:
        async with self.etcd.kv(tls=self.admin) as kv:
            yield kv

    async def publish(self) -> None:
        """All that a cluster says when it is well, by a publisher that goes on after this."""
        async with self.kv() as kv:
            made = Publisher(kv, "cm-1", CONFIG, options=TIMES)
            made.set_services([service("web", "10.1.0.9")])
            async with running(made):
                await made.settled()
                while await kv.get(keys.HEARTBEAT) is None:
                    await asyncio.sleep(0.01)

    async def put(self, key: str, value: bytes) -> None:
        """Another value, with the lease that the key has."""
        async with self.kv() as kv:
            known = await kv.get(keys.cluster_config("cm-1"))
            lease = await kv.grant(60)
            await kv.put(key, value, lease if known is not None else None)

    async def delete(self, key: str) -> None:
        async with self.kv() as kv:
            await kv.delete(key)

    async def found(self, directory: Path | None = None) -> list[Finding]:
        """As cm-2 finds it, or the cluster whose files are in ``directory``."""
        files = joined_files(directory or self.two)
        # cm-2 publishes nothing, and has no etcd.
        return findings(await examine(replace(files, etcd=files.etcd if directory else None), self.now))


@pytest.fixture
async def mesh(tmp_path: Path, make_etcd: Callable[..., EtcdProcess]) -> Mesh:
    made = Mesh(tmp_path, make_etcd())
    await made.start()
    await made.publish()
    return made


def told(found: list[Finding]) -> set[tuple[str, str]]:
    """Severity and concern."""
    return {(each.severity.value, each.check) for each in found}


async def test_of_a_mesh_that_is_well_nothing_is_said_on_either_side(mesh: Mesh) -> None:
    assert await mesh.found() == []
    assert await mesh.found(mesh.one) == []


async def no_config(mesh: Mesh) -> None:
    await mesh.delete(keys.cluster_config("cm-1"))


async def no_canary(mesh: Mesh) -> None:
    await mesh.delete(keys.canary("cm-1", "services"))


async def no_heartbeat(mesh: Mesh) -> None:
    await mesh.delete(keys.HEARTBEAT)


async def old_heartbeat(mesh: Mesh) -> None:
    await mesh.put(keys.HEARTBEAT, b"2026-01-01T00:00:00Z")


async def other_id(mesh: Mesh) -> None:
    await mesh.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cluster_id=7)))
    await mesh.delete(keys.service("cm-1", "ns", "web"))


async def broken_config(mesh: Mesh) -> None:
    await mesh.put(keys.cluster_config("cm-1"), b"{")


async def backend_elsewhere(mesh: Mesh) -> None:
    stolen = service("stolen", "10.2.0.9")
    await mesh.put(keys.service("cm-1", "ns", "stolen"), encode_service(stolen))


async def slice_elsewhere(mesh: Mesh) -> None:
    both = replace(CONFIG, endpoint_slices_export_mode=SERVICES_AND_SLICES)
    await mesh.put(keys.cluster_config("cm-1"), encode_config(both))
    for one in slices_of(service("stolen", "10.2.0.9")):
        await mesh.put(keys.endpoint_slice("cm-1", "ns", one.name), encode_slice(one))


async def two_nodes_with_one_network(mesh: Mesh) -> None:
    for name in ("a", "b"):
        node = Node(name, "cm-1", 1, ipv4_network=ip_network("10.1.3.0/24"))
        await mesh.put(keys.node("cm-1", name), encode_node(node))


async def no_lease(mesh: Mesh) -> None:
    async with mesh.kv() as kv:
        await kv.put(keys.cluster_config("cm-1"), encode_config(CONFIG))


async def may_write(mesh: Mesh) -> None:
    mesh_ctl(mesh, "role", "grant-permission", "remote", "--prefix=true", "readwrite", SERVICES)


async def may_read_all(mesh: Mesh) -> None:
    mesh_ctl(mesh, "role", "grant-permission", "remote", "--prefix=true", "read", OURS)


async def another_authority(mesh: Mesh) -> None:
    write(mesh.two / "peers" / "cm-1.ca.crt", Authority.make("another").pem, 0o644)


async def certificate_for_elsewhere(mesh: Mesh) -> None:
    below = mesh.one / "authority"
    pair = Pair((below / "ca.crt").read_bytes(), (below / "ca.key").read_bytes())
    # etcd reads it at the next handshake.
    write_pair(mesh.one / "etcd", "etcd", Authority.load(pair).issue("etcd", ("elsewhere.example",)))


async def certificate_of_ten_days(mesh: Mesh) -> None:
    mesh.join(10 * DAY)


async def certificate_that_ended(mesh: Mesh) -> None:
    mesh.join(datetime.timedelta())


async def key_of_another(mesh: Mesh) -> None:
    write(mesh.two / "peers" / "cm-1.key", Authority.make("another").pair.key)


async def no_certificate(mesh: Mesh) -> None:
    (mesh.two / "peers" / "cm-1.crt").unlink()


async def etcd_down(mesh: Mesh) -> None:
    mesh.etcd.kill()


async def our_clock_is_slow(mesh: Mesh) -> None:
    mesh.now = lambda: now() - datetime.timedelta(seconds=60)


async def our_clock_is_fast(mesh: Mesh) -> None:
    # Beyond the age of a heartbeat that counts: it is judged by the other clock, and counts.
    mesh.now = lambda: now() + datetime.timedelta(seconds=600)


async def a_file_that_is_no_client_file(mesh: Mesh) -> None:
    (mesh.two / "peers" / "cm-9").write_text("endpoints: nowhere")


async def another_cluster_under_our_networks(mesh: Mesh) -> None:
    document = (mesh.two / "cluster.yaml").read_text().replace("10.2.0.0/16", "10.1.128.0/17")
    (mesh.two / "cluster.yaml").write_text(document)


def mesh_ctl(mesh: Mesh, *arguments: str) -> str:
    tls = mesh.admin
    return mesh.etcd.ctl(
        f"--cacert={tls.trusted_ca}", f"--cert={tls.certificate}", f"--key={tls.key}", *arguments
    )


Broken = dict[Callable[[Mesh], Awaitable[None]], tuple[set[tuple[str, str]], str]]

IN_ETCD: Broken = {
    no_config: ({("error", "answers")}, "nobody publishes under this name"),
    no_canary: ({("error", "freshness")}, "cilium/synced/cm-1/cilium/state/services/v1 is missing"),
    no_heartbeat: ({("error", "freshness")}, "there is no cilium/.heartbeat"),
    old_heartbeat: ({("error", "freshness")}, "the last heartbeat was written"),
    other_id: ({("error", "identity")}, "its cluster id is 7, it was joined as 1"),
    broken_config: ({("error", "answers")}, "cilium/cluster-config/cm-1"),
    backend_elsewhere: ({("error", "records")}, "10.2.0.9 is in no network that the peer was joined with"),
    slice_elsewhere: ({("error", "records")}, "endpoints: 10.2.0.9 is in no network that the peer was"),
    two_nodes_with_one_network: (
        {("error", "networks")},
        "10.1.3.0/24 of node cm-1/a overlaps 10.1.3.0/24 of",
    ),
    no_lease: ({("warning", "leases")}, "has no lease"),
    our_clock_is_slow: ({("warning", "clocks")}, "its clock is 60 s ahead of ours"),
    our_clock_is_fast: ({("warning", "clocks")}, "its clock is 600 s behind ours"),
    may_write: ({("error", "access")}, "cilium/state/services/v1/cm-1/meshd/doctor"),
    may_read_all: ({("warning", "access")}, "may read what is not shared: meshd/publisher/cm-1"),
}
IN_FILES: Broken = {
    another_cluster_under_our_networks: ({("error", "networks")}, "overlaps 10.1.128.0/17 of cluster cm-2"),
    another_authority: ({("error", "members"), ("error", "answers")}, "certificate is not believed: "),
    certificate_of_ten_days: ({("warning", "certificates")}, "in 9 days"),
    certificate_that_ended: (
        {("error", "certificates"), ("error", "members"), ("error", "answers")},
        "does not answer: ",
    ),
    key_of_another: ({("error", "certificates"), ("error", "answers")}, "is not the key of"),
    no_certificate: ({("error", "certificates"), ("error", "answers")}, "cannot be read"),
    a_file_that_is_no_client_file: ({("error", "files")}, "expected a list of URLs"),
    # The last two are not mended.
    certificate_for_elsewhere: ({("error", "members"), ("error", "answers")}, "127.0.0.1"),
    etcd_down: ({("error", "members"), ("error", "answers")}, "does not answer: Connection refused"),
}


async def diagnosed(
    mesh: Mesh, cases: Broken, mend: Callable[[], Awaitable[None]]
) -> dict[str, tuple[set[tuple[str, str]], str]]:
    """What is found while each of ``cases`` is broken; its text is what is expected, if that is among it."""
    seen = {}
    for break_it, (_, said) in cases.items():
        await break_it(mesh)
        found = await mesh.found()
        problems = "\n".join(each.problem for each in found)
        seen[break_it.__name__] = told(found), said if said in problems else problems
        await mend()
    return seen


async def test_what_is_wrong_in_etcd_is_named_and_nothing_else(mesh: Mesh) -> None:
    async with mesh.kv() as kv:
        good = (await kv.list("cilium/")).items

        async def mend() -> None:
            mesh.now = now
            for item in (await kv.list("cilium/")).items:
                await kv.delete(item.key)
            for item in good:
                await kv.put(item.key, item.value or b"", Lease(item.lease, 60, 0.0))
            for prefix in (SERVICES, OURS):
                if prefix in mesh_ctl(mesh, "role", "get", "remote"):
                    mesh_ctl(mesh, "role", "revoke-permission", "remote", "--prefix=true", prefix)

        expected = {break_it.__name__: outcome for break_it, outcome in IN_ETCD.items()}
        assert await diagnosed(mesh, IN_ETCD, mend) == expected
        assert await mesh.found() == []


async def test_what_is_wrong_with_files_certificates_and_servers_is_named_and_nothing_else(
    mesh: Mesh, tmp_path: Path
) -> None:
    shutil.copytree(mesh.two, tmp_path / "good")

    async def mend() -> None:
        shutil.rmtree(mesh.two)
        shutil.copytree(tmp_path / "good", mesh.two)

    expected = {break_it.__name__: outcome for break_it, outcome in IN_FILES.items()}
    assert await diagnosed(mesh, IN_FILES, mend) == expected


async def test_an_etcd_that_asks_nobody_is_told_of_on_both_sides_and_nothing_is_written_to_find_out(
    tmp_path: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    mesh = Mesh(tmp_path, make_etcd())
    await mesh.start(restricted=False)
    await mesh.publish()
    async with mesh.kv() as kv:
        before = await kv.list("cilium/")
        assert told(await mesh.found()) == {("error", "access"), ("warning", "access")}
        assert await kv.list("cilium/") == before
    problems = [each.problem for each in await mesh.found(mesh.one)]
    assert problems == ["asks nobody who they are: every certificate of its authority may write"]


async def test_users_that_may_too_much_or_too_little_are_named_to_their_own_cluster(mesh: Mesh) -> None:
    mesh_ctl(mesh, "user", "add", "mallory:secret")
    mesh_ctl(mesh, "user", "grant-role", "mallory", "root")
    mesh_ctl(mesh, "user", "revoke-role", "remote-cm-2", "remote")
    await may_write(mesh)
    problems = {each.problem for each in await mesh.found(mesh.one)}
    assert problems == {
        "user mallory may do everything",
        "user remote-cm-2 has not the role remote, so cm-2 reads nothing",
        "role remote may write all from cilium/state/services/ on",
    }


async def test_a_lease_that_nobody_renews_is_told_of_before_it_ends(mesh: Mesh) -> None:
    async with mesh.kv() as kv, asyncio.timeout(10):
        lease = await kv.grant(5)
        await kv.put(keys.cluster_config("cm-1"), encode_config(CONFIG), lease)
        while not (found := await mesh.found()):
            await asyncio.sleep(0.1)
    assert told(found) == {("error", "leases")}
    assert "not renewed: " in found[0].problem


async def test_a_peer_of_cilium_without_certificates_and_without_a_pin(
    tmp_path: Path, etcd: EtcdProcess, kv: Kv
) -> None:
    made = Publisher(kv, "cm-1", CONFIG, options=TIMES)
    made.set_services([])
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "cm-1").write_text(f"endpoints: ['{etcd.url}']")
    async with running(made):
        await made.settled()
        found = findings(await examine(Files("cm-2", 2, peers=tmp_path / "peers")))
    problems = [each.problem for each in found if each.severity.value == "warning"]
    assert "cluster cm-1 is not pinned: it may name any address" in problems
    assert "is not encrypted: whoever is on the way can say what the cluster shares" in problems


async def test_the_command_ends_with_one_if_anything_is_wrong_and_says_it_to_programs_too(mesh: Mesh) -> None:
    status, said = await clustermesh("doctor", "--directory", mesh.one)
    assert (status, said) == (0, "cm-1 looked at cm-1: nothing is wrong\n")
    await no_canary(mesh)
    status, said = await clustermesh("doctor", "--directory", mesh.one, "-o", "json")
    (only,) = json.loads(said)["findings"]
    assert (status, only["severity"], only["check"], only["where"]) == (
        1,
        "error",
        "freshness",
        "etcd of cm-1",
    )
