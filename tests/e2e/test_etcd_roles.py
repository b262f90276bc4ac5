"""Nodes of another cluster may read what an etcd shares, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator

import pytest

from meshd.kernel import cgroup
from meshd.lab import etcd, etcd_roles
from meshd.lab.lab import Lab
from meshd.lab.record import held
from meshd.lab.spec import ClusterSpec, LabSpec
from tests.e2e.traces import places

pytestmark = pytest.mark.needs("command:etcdctl")


@pytest.fixture
async def two_clusters(run_name: str) -> AsyncIterator[Lab]:
    """Two clusters of a node each with their etcds set up; no meshd, no pods."""
    lab = Lab(places(run_name), LabSpec((ClusterSpec("cm-1", 1, 1), ClusterSpec("cm-2", 2, 1))))
    with held(lab.places):
        try:
            cgroup.create(lab.places.cgroup)
            lab.keep_as("starting")
            etcd.write_files(lab.places, lab.clusters)
            lab.make_network()
            for cluster in lab.clusters:
                await lab.start_etcd(cluster).ready()
            etcd_roles.restrict(lab.places, lab.clusters[0], ["cm-2"])
            yield lab
        finally:
            lab.take_down()


def _etcdctl(lab: Lab, node: int, name: str, *arguments: str) -> tuple[int, str]:
    """etcdctl against the etcd of cm-1, from a node, with the certificate of ``name``: exit status and all it printed."""
    pki, endpoint = lab.places.pki("cm-1"), f"https://{lab.clusters[0].etcd.v4}:{etcd.CLIENT_PORT}"
    tls = [f"--cacert={pki / 'ca.crt'}", f"--cert={pki / f'{name}.crt'}", f"--key={pki / f'{name}.key'}"]
    inside = ["nsenter", f"--net={lab.places.node_netns(lab.nodes[node])}", "env", "ETCDCTL_API=3"]
    done = subprocess.run(
        [*inside, "etcdctl", f"--endpoints={endpoint}", *tls, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_node_of_another_cluster_reads_what_is_shared_and_can_do_nothing_else(
    two_clusters: Lab,
) -> None:
    assert _etcdctl(two_clusters, 0, "admin-cm-1", "put", "cilium/state/x", "shared") == (0, "OK\n")
    assert _etcdctl(two_clusters, 0, "admin-cm-1", "put", "meshd/private", "own") == (0, "OK\n")
    reader = "remote-cm-2"
    assert _etcdctl(two_clusters, 1, reader, "get", "--prefix", "cilium/") == (0, "cilium/state/x\nshared\n")
    for denied in (
        ["get", "meshd/private"],
        ["put", "cilium/state/x", "spoilt"],
        ["get", "--prefix", ""],
        ["user", "list"],
    ):
        status, said = _etcdctl(two_clusters, 1, reader, *denied)
        assert (status, "permission denied" in said) == (1, True), said


async def test_nobody_without_a_certificate_of_the_cluster_gets_in(two_clusters: Lab) -> None:
    foreign = two_clusters.places.pki("cm-2")
    own = two_clusters.places.pki("cm-1")
    for kind in ("crt", "key"):
        (own / f"foreign.{kind}").write_bytes((foreign / f"admin-cm-2.{kind}").read_bytes())
    status, _said = _etcdctl(
        two_clusters, 1, "foreign", "--dial-timeout=2s", "--command-timeout=2s", "get", "cilium/"
    )
    assert status != 0
