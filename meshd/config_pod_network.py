"""The section `podNetwork` of the configuration: pods' packets carried by TC programs, and what they do with them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

import msgspec

from meshd.errors import ConfigError

# Below are ports that services of a node listen on by default; a range this small runs out at once.
FIRST_PORT, FEWEST_PORTS = 1024, 256


class FlowTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For how long a flow is remembered after its last packet, in seconds, by what it is.

    ``established_s``: answered TCP; ``closing_s``: TCP that was finished or reset; ``unanswered_s``: nobody answered yet;
    ``datagram_s``: answered UDP and the like; ``echo_s``: answered pings.
    """

    established_s: int = 21600
    closing_s: int = 60
    unanswered_s: int = 60
    datagram_s: int = 180
    echo_s: int = 30


class PodNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How pods' packets travel.

    ``enabled``: whether programs carry pods' packets; default: where `cni.podCidrs` gives pods addresses.
    ``routing``: to pods of other nodes under their own addresses (native), in a tunnel (vxlan), or as two nodes can.
    ``masquerade``: what leaves the cluster has the node's address.
    ``masquerade_excluded``: but not what goes to these CIDRs.
    ``masquerade_ports``: the ports it leaves from, reserved on the node.
    ``uplinks``: devices that lead out of the node besides those with a default route or a node address.
    ``via_stack``: destinations (CIDRs) that are left to the node's stack.
    ``tunnel_port``: UDP, the same on all nodes.
    ``flow_quota_percent``: of the flows that the node remembers (maps.flows), how many one pod may have.
    """

    enabled: bool | None = None
    routing: Literal["auto", "native", "vxlan"] = "auto"
    masquerade: bool = True
    masquerade_excluded: tuple[str, ...] = ()
    masquerade_ports: str = "50000-65535"
    uplinks: tuple[str, ...] = ()
    via_stack: tuple[str, ...] = ()
    tunnel_port: int = 8472
    timeouts: FlowTimeouts = FlowTimeouts()
    flow_quota_percent: int = 25

    @property
    def port_range(self) -> tuple[int, int]:
        """The first and the last port of ``masquerade_ports``; ValueError: it is no range."""
        first, dash, last = self.masquerade_ports.partition("-")
        if not dash:
            raise ValueError(f"{self.masquerade_ports!r} is not FIRST-LAST")
        return int(first), int(last)


def check(options: PodNetwork) -> None:
    """Returns if the options make sense.

    Raises:
        ConfigError: names the option and what to change.
    """
    try:
        first, last = options.port_range
    except ValueError:
        raise ConfigError(
            f"podNetwork.masqueradePorts is {options.masquerade_ports!r}, it must be FIRST-LAST, as in 50000-65535"
        ) from None
    if first < FIRST_PORT or last > 65535 or last - first + 1 < FEWEST_PORTS:
        raise ConfigError(
            f"podNetwork.masqueradePorts is {first}-{last}, it must be at least {FEWEST_PORTS} ports in {FIRST_PORT}-65535"
        )
    for name, cidrs in (("masqueradeExcluded", options.masquerade_excluded), ("viaStack", options.via_stack)):
        for cidr in cidrs:
            _check_cidr(name, cidr)
    if not 1 <= options.tunnel_port <= 65535:
        raise ConfigError(f"podNetwork.tunnelPort is {options.tunnel_port}, it must be 1..65535")
    if not 1 <= options.flow_quota_percent <= 100:
        raise ConfigError(f"podNetwork.flowQuotaPercent is {options.flow_quota_percent}, it must be 1..100")
    for field in options.timeouts.__struct_fields__:
        if getattr(options.timeouts, field) < 2:
            name = field.removesuffix("_s")
            raise ConfigError(
                f"podNetwork.timeouts.{name}S is {getattr(options.timeouts, field)}, it must be at least 2: "
                "when a flow was last seen is noted once a second"
            )


def _check_cidr(name: str, cidr: str) -> None:
    try:
        ip_network(cidr)
    except ValueError as error:
        raise ConfigError(f"podNetwork.{name} names {cidr!r}, which is no CIDR: {error}") from None
