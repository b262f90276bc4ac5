"""The section `kubernetes` of the configuration: the API server as a source, and what its Services may be dialled at."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from meshd.errors import ConfigError


class ApiServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where the API servers are.

    ``endpoints``: HOST:PORT of each, tried in turn; default: what the kubeconfig or the pod's environment says. In a cluster
    they should be named: the service address of `kubernetes` is one that this agent answers itself.
    ``tls_server_name``: the name in their certificates, if it is not the host that is dialled.
    """

    endpoints: tuple[str, ...] = ()
    tls_server_name: str = ""


class ExternalIPs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Addresses that services ask for; whoever may write Services could take traffic for others with them (CVE-2020-8554).

    ``allowed``: the CIDRs in which they are answered; default: none.
    """

    allowed: tuple[str, ...] = ()


class Kubernetes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The API server of Kubernetes as a source.

    ``enabled``: whether it is read; default: where `kubeconfig` is set.
    ``kubeconfig``: who asks, and whom; default: the service account of the pod that the agent runs in.
    ``context``: of the kubeconfig; default: its current one.
    ``node_ports``: answered at the addresses of all nodes, of this one (own), or none.
    ``network``: this agent makes the network of the node's pods: their CIDRs and the node's addresses are those of its Node,
    the container runtime's files are installed, and the Node says whether new pods can come; default: where the API server
    is asked as the service account of a pod.
    ``kube_proxy``: one runs beside meshd; without, clients outside reach no node port, load balancer or host port.
    ``node_port_rows``: of other nodes at most so many entries of `maps.frontends`, else only this node's, which status says.
    """

    enabled: bool | None = None
    kubeconfig: Path | None = None
    context: str = ""
    api_server: ApiServer = ApiServer()
    external_ips: ExternalIPs = msgspec.field(default=ExternalIPs(), name="externalIPs")
    node_ports: Literal["all", "own", "none"] = "all"
    node_port_rows: int = 16384
    network: bool | None = None
    kube_proxy: bool = True

    @property
    def is_used(self) -> bool:
        """Whether the API server is read."""
        return self.kubeconfig is not None if self.enabled is None else self.enabled

    @property
    def makes_network(self) -> bool:
        """Whether this agent is the network of a node of Kubernetes."""
        return self.is_used and (self.kubeconfig is None if self.network is None else self.network)


def check(options: Kubernetes) -> None:
    """Returns if the options make sense.

    Raises:
        ConfigError: names the option and what to change.
    """
    for endpoint in options.api_server.endpoints:
        _check_endpoint(endpoint)
    for cidr in options.external_ips.allowed:
        try:
            ip_network(cidr)
        except ValueError as error:
            raise ConfigError(
                f"kubernetes.externalIPs.allowed names {cidr!r}, which is no CIDR: {error}"
            ) from None
    if options.node_port_rows < 0:
        raise ConfigError(f"kubernetes.nodePortRows is {options.node_port_rows}, it cannot be negative")


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"kubernetes.apiServer.endpoints names {endpoint!r}, it must be HOST:PORT or https://HOST:PORT"
        )
