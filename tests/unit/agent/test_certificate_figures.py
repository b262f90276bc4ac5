"""When certificates end, as the agent tells it."""

from __future__ import annotations

import datetime
from ipaddress import ip_network
from pathlib import Path

from clustermesh import membership
from clustermesh.authority import Authority, write_pair
from clustermesh.invitation import Cluster
from meshd.agent.certificate_figures import certificate_figures
from meshd.config import Api, ClusterMesh, Config, Tls

DAY_S = 86400.0


def told(config: Config) -> dict[str, float]:
    (figure,) = certificate_figures(config)
    return {sample.labels["file"]: sample.value for sample in figure.samples}


def in_days(days: int) -> float:
    return datetime.datetime.now(datetime.UTC).timestamp() + days * DAY_S


def test_every_certificate_in_use_has_its_end(tmp_path: Path) -> None:
    for number in (1, 2):
        directory = tmp_path / f"cm-{number}"
        networks = (ip_network(f"10.{number}.0.0/16"),)
        membership.init(
            directory, Cluster(f"cm-{number}", number, networks, ("https://192.0.2.1:2379",), directory)
        )
    invitation = membership.invite(tmp_path / "cm-2", "cm-1", datetime.timedelta(days=7))
    membership.join(tmp_path / "cm-1", invitation)
    authority = Authority.make("api")
    pair = write_pair(tmp_path, "api", authority.issue("meshd", ["127.0.0.1"], datetime.timedelta(days=3)))
    (tmp_path / "api-ca.crt").write_bytes(authority.pem)
    mine = tmp_path / "cm-1"
    found = told(
        Config(
            node_name="n1",
            cluster_name="cm-1",
            clustermesh=ClusterMesh(etcd=mine / "client/etcd.yaml", peers=mine / "peers"),
            api=Api(tls=Tls(pair.certificate, pair.key, tmp_path / "api-ca.crt")),
        )
    )
    ends = {path: round((value - in_days(0)) / DAY_S) for path, value in found.items()}
    assert ends == {
        str(tmp_path / "api.crt"): 3,
        str(tmp_path / "api-ca.crt"): 3650,
        str(mine / "client/admin.crt"): 365,
        str(mine / "client/ca.crt"): 3650,
        str(mine / "peers/cm-2.crt"): 7,
        str(mine / "peers/cm-2.ca.crt"): 3650,
    }


def test_what_cannot_be_read_has_none(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "cm-2").write_text(
        "endpoints: [https://192.0.2.1:2379]\n"
        f"trusted-ca-file: {tmp_path}/missing.crt\ncert-file: {peers}/cm-2.crt\nkey-file: {peers}/cm-2.key\n"
    )
    (peers / "cm-2.crt").write_text("no certificate")
    config = Config(node_name="n1", clustermesh=ClusterMesh(etcd=tmp_path / "missing.yaml", peers=peers))
    assert told(config) == {}
    assert told(Config(node_name="n1")) == {}
