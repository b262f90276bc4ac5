"""Answers in the form that each version of the specification asks for."""

from __future__ import annotations

from typing import Any

import msgspec

from meshd.model import format_address, is_ipv4
from meshd.model.attachment import Attachment, PodInterface
from meshd.servers.cni.question import NetworkConfig

DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


def added(config: NetworkConfig, attachment: Attachment, interface: PodInterface) -> bytes:
    """The result of an ADD: the two ends of the veth, addresses, gateways and default routes."""
    versions = [4 if is_ipv4(address) else 6 for address in attachment.addresses]
    host = {"name": interface.host_name, "mac": interface.host_mac}
    pod = {"name": attachment.ifname, "mac": interface.mac, "sandbox": attachment.netns}
    if config.cni_version == "1.1.0":
        host["mtu"] = pod["mtu"] = interface.mtu  # type: ignore[assignment] # the only member that is no text
    ips = [
        {
            "address": f"{format_address(address)}/{32 if version == 4 else 128}",
            "gateway": interface.gateways[version],
            "interface": 1,
        }
        # Until 1.0.0 the family was said beside the address.
        | ({"version": str(version)} if config.cni_version < "1.0.0" else {})
        for address, version in zip(attachment.addresses, versions, strict=True)
    ]
    routes = [
        {"dst": DEFAULT_ROUTES[each], "gw": interface.gateways[each]} for each in dict.fromkeys(versions)
    ]
    return encoded(config, {"interfaces": [host, pod], "ips": ips, "routes": routes, "dns": config.dns or {}})


def passed_on(config: NetworkConfig) -> bytes:
    """The result of the plugin before us."""
    return encoded(config, config.prev_result or {})


def encoded(config: NetworkConfig, result: dict[str, Any]) -> bytes:
    """``result`` with the version it is in."""
    # Any: what other plugins put into a result is theirs.
    return msgspec.json.encode(result | {"cniVersion": config.cni_version}) + b"\n"
