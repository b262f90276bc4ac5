"""The addresses besides its ClusterIPs that a Service wants to be dialled at: node ports, load balancers', external ones.

What is asked for here is granted or not by `admission.py`, which knows the other services and the nodes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from meshd.model import Address, Frontend, Protocol, Service, is_ipv4, parse_address
from meshd.sources.kubernetes.services import Remark
from meshd.sources.kubernetes.types import ServiceObject, ServiceSpec

_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")


class Kind(Enum):
    """Why an address is claimed; the value is the field that says it."""

    NODE_PORT = "spec.ports[].nodePort"
    LOAD_BALANCER = "status.loadBalancer.ingress"
    EXTERNAL_IP = "spec.externalIPs"


class Claim(NamedTuple):
    """``address`` None: every node's, of family ``version`` (4 or 6)."""

    kind: Kind
    version: int
    address: Address | None
    port: int
    protocol: Protocol
    port_name: str

    def at(self, address: Address) -> Frontend:
        """The frontend that this is at ``address``."""
        return Frontend(address, self.port, self.protocol, self.port_name)


def claims(found: ServiceObject, service: Service) -> tuple[tuple[Claim, ...], list[Remark]]:
    """What ``found``, which became ``service``, claims, and what of its fields claims nothing although it might seem to.

    Only for families and ports that the service has a ClusterIP for; headless and ExternalName services claim nothing.
    """
    spec = found.spec or ServiceSpec()
    remarks: list[Remark] = []
    addresses = [*_load_balancer(found, spec, remarks), *_external(spec, remarks)]
    node_ports = {
        (port.port, port.protocol or "TCP"): port.node_port
        for port in spec.ports or ()
        if port.node_port and spec.type in _WITH_NODE_PORTS
    }
    made: dict[Claim, None] = {}
    for frontend in service.frontends:
        version = 4 if is_ipv4(frontend.address) else 6
        node_port = node_ports.get((frontend.port, frontend.protocol.name))
        if node_port is not None:
            name = frontend.port_name
            made[Claim(Kind.NODE_PORT, version, None, node_port, frontend.protocol, name)] = None
        for kind, address in addresses:
            if is_ipv4(address) == (version == 4):
                claim = Claim(kind, version, address, frontend.port, frontend.protocol, frontend.port_name)
                made[claim] = None
    return tuple(made), remarks


def _load_balancer(
    found: ServiceObject, spec: ServiceSpec, remarks: list[Remark]
) -> Iterator[tuple[Kind, Address]]:
    balancer = found.status.load_balancer if found.status else None
    if spec.type != "LoadBalancer" or balancer is None:
        return
    field = Kind.LOAD_BALANCER.value
    ingress = [each for each in balancer.ingress or () if each.ip]
    if ingress and spec.load_balancer_source_ranges:
        reason = "spec.loadBalancerSourceRanges says who may come, which the load balancer judges: left to it"
        remarks.append(Remark(field, reason))
        return
    for index, each in enumerate(ingress):
        # KEP-1860: a load balancer of mode Proxy wants to see the traffic itself.
        if each.ip_mode == "Proxy":
            continue
        address = _parsed(each.ip or "", f"{field}[{index}].ip", remarks)
        if address is not None:
            yield Kind.LOAD_BALANCER, address


def _external(spec: ServiceSpec, remarks: list[Remark]) -> Iterator[tuple[Kind, Address]]:
    if spec.type == "ExternalName":
        return
    for index, text in enumerate(spec.external_ips or ()):
        address = _parsed(text, f"spec.externalIPs[{index}]", remarks)
        if address is not None:
            yield Kind.EXTERNAL_IP, address


def _parsed(text: str, field: str, remarks: list[Remark]) -> Address | None:
    try:
        return parse_address(text)
    except ValueError as error:
        remarks.append(Remark(field, str(error)))
        return None
