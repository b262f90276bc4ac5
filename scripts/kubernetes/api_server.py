"""Kubernetes' API server: its certificates, its command line, and whether it is ready. Starting it is for others."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from scripts.kubernetes import components, kubeconfig
from scripts.kubernetes.certificates import Authority, KeyPair, write_key, write_public

# Under these names pods may ask for it.
HOSTS = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
ADMINISTRATORS = "system:masters"
# Of a range for documentation (RFC 5737): an API server that leads nobody to itself must name an address all the same.
NOBODY = "192.0.2.1"
SERVER, KUBELET_CLIENT = "kube-apiserver", "kube-apiserver-kubelet-client"


@dataclass(frozen=True, slots=True)
class Keys:
    """Files that an API server and the controllers beside it start with."""

    authority: Path
    server: KeyPair
    kubelet_client: KeyPair
    # What signs the tokens of service accounts, and what they are verified with.
    accounts_key: Path
    accounts_public: Path


@dataclass(frozen=True, slots=True)
class ApiServer:
    """``address``: what it listens on and what clients dial; ``advertised``: what its own service leads to, None: nothing.

    ``services``: a range of each family that services get their addresses from.
    """

    address: IPv4Address
    port: int
    etcd: str
    services: tuple[IPv4Network, IPv6Network]
    keys: Keys
    directory: Path
    advertised: IPv4Address | None = None

    @property
    def url(self) -> str:
        """What a client on this machine dials."""
        return f"https://{self.address}:{self.port}"

    def command(self) -> list[str]:
        """Program and flags."""
        keys = self.keys
        # In a namespace of its own, everybody there may dial it.
        listen = "::" if self.advertised else str(self.address)
        return [
            str(components.program("kube-apiserver")),
            *(
                f"--bind-address={listen}",
                f"--secure-port={self.port}",
                f"--advertise-address={self.advertised or NOBODY}",
            ),
            f"--endpoint-reconciler-type={'lease' if self.advertised else 'none'}",
            *(f"--etcd-servers={self.etcd}", f"--cert-dir={self.directory}"),
            f"--service-cluster-ip-range={','.join(map(str, self.services))}",
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            "--allow-privileged=true",
            # Else it waits a minute for clients that watch to go by themselves.
            "--shutdown-watch-termination-grace-period=2s",
            # It asks etcd for something that Debian 12's does not have, again and again.
            "--feature-gates=SizeBasedListCostEstimate=false",
            f"--client-ca-file={keys.authority}",
            *(f"--tls-cert-file={keys.server.certificate}", f"--tls-private-key-file={keys.server.key}"),
            f"--kubelet-certificate-authority={keys.authority}",
            f"--kubelet-client-certificate={keys.kubelet_client.certificate}",
            f"--kubelet-client-key={keys.kubelet_client.key}",
            # Names of nodes do not resolve here.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys.accounts_public}",
            f"--service-account-signing-key-file={keys.accounts_key}",
        ]


def make_keys(authority: Authority, addresses: Sequence[IPv4Address | IPv6Address]) -> Keys:
    """Everything that ``authority`` signs for an API server at ``addresses``, below the authority's directory."""
    keys = keys_in(authority.directory)
    accounts = ec.generate_private_key(ec.SECP256R1())
    write_key(keys.accounts_key, accounts)
    write_public(keys.accounts_public, accounts)
    authority.issue(SERVER, addresses=addresses, hosts=HOSTS)
    authority.issue(KUBELET_CLIENT, [ADMINISTRATORS])
    return keys


def keys_in(directory: Path) -> Keys:
    """Where :func:`make_keys` has put everything, with an authority of that directory."""
    server, client = (
        KeyPair(directory / f"{name}.crt", directory / f"{name}.key") for name in (SERVER, KUBELET_CLIENT)
    )
    return Keys(directory / "ca.crt", server, client, directory / "accounts.key", directory / "accounts.pub")


def write_client(
    server: ApiServer, authority: Authority, path: Path, user: str, groups: Sequence[str] = (ADMINISTRATORS,)
) -> Path:
    """The kubeconfig of ``user``, who is in ``groups``, at ``path``."""
    return kubeconfig.write(path, server.url, authority.certificate, authority.issue(user, groups))


def is_ready(server: ApiServer) -> bool:
    """Whether it says that it is ready: everything that it makes for itself at its start is there."""
    trusted = ssl.create_default_context(cafile=str(server.keys.authority))
    try:
        with urllib.request.urlopen(f"{server.url}/readyz", context=trusted, timeout=5) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
