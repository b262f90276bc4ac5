"""One real etcd for each cluster, reachable on the fabric over mutual TLS only.

Files are in the form of a clustermesh directory: ``peers/NAME`` of a cluster is how its nodes reach remote cluster NAME.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import yaml

from clustermesh import pin_file
from clustermesh.authority import KeyPair
from clustermesh.pin import Pin
from meshd.errors import ConfigError
from meshd.lab.certificates import Authority
from meshd.lab.layout import Cluster, Places
from meshd.lab.processes import Program
from meshd.lab.record import replace_file

CLIENT_PORT = 2379
# A member that is alone dials no peer, but etcd wants to listen for one: out of reach, on its loopback.
PEER_URL = "http://127.0.0.1:2380"


def binary() -> str:
    """Path of etcd.

    Raises:
        ConfigError: it is not installed.
    """
    found = shutil.which("etcd")
    if found is None:
        raise ConfigError(
            "etcd is not installed: `apt-get install --no-install-recommends etcd-server` (Debian 12)"
        )
    return found


def program(places: Places, cluster: Cluster) -> Program:
    """How the etcd of ``cluster`` is run; its files must have been written by `write_files`."""
    pki = places.pki(cluster.name)
    listen = f"https://{cluster.etcd.v4}:{CLIENT_PORT}"
    argv = [
        binary(),
        f"--name={cluster.name}",
        f"--data-dir={places.etcd_data(cluster.name)}",
        f"--listen-client-urls={listen},https://[{cluster.etcd.v6}]:{CLIENT_PORT}",
        f"--advertise-client-urls={listen}",
        f"--listen-peer-urls={PEER_URL}",
        f"--initial-advertise-peer-urls={PEER_URL}",
        f"--initial-cluster={cluster.name}={PEER_URL}",
        f"--cert-file={pki / 'etcd.crt'}",
        f"--key-file={pki / 'etcd.key'}",
        f"--trusted-ca-file={pki / 'ca.crt'}",
        "--client-cert-auth",
        "--logger=zap",
    ]
    return Program(
        f"etcd of {cluster.name}",
        argv,
        places.etcd_cgroup(cluster.name),
        places.etcd_netns(cluster.name),
        places.etcd_log(cluster.name),
        # The Go runtime takes all cores; the lab shares two of them with everything else it runs.
        {"GOMAXPROCS": "1"},
    )


def write_files(places: Places, clusters: Sequence[Cluster]) -> None:
    """Certificates of every etcd and its clients, this cluster's client file, and one file for each pair of clusters."""
    authorities = {c.name: Authority(places.pki(c.name), f"etcd-ca-{c.name}") for c in clusters}
    for cluster in clusters:
        authority = authorities[cluster.name]
        authority.issue("etcd", cluster.etcd)
        own = authority.issue(f"admin-{cluster.name}")
        replace_file(places.etcd_client(cluster.name), _client_file(cluster, authority, own))
        places.peers(cluster.name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for reader in clusters:
        for cluster in clusters:
            if cluster.name == reader.name:
                continue
            pair = authorities[cluster.name].issue(f"remote-{reader.name}")
            content = _client_file(cluster, authorities[cluster.name], pair)
            # As after a join: what a lab's clusters name is no question of which node was the first.
            content += pin_file.render(Pin(cluster.id, cluster.networks))
            replace_file(places.peers(reader.name) / cluster.name, content)


def _client_file(cluster: Cluster, authority: Authority, pair: KeyPair) -> bytes:
    return yaml.safe_dump(
        {
            "endpoints": [f"https://{cluster.etcd.v4}:{CLIENT_PORT}"],
            "trusted-ca-file": str(authority.certificate),
            "cert-file": str(pair.certificate),
            "key-file": str(pair.key),
        }
    ).encode()
