"""The section `probes` of the configuration: whether other nodes answer."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from meshd.errors import ConfigError


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How nodes of remote clusters are asked whether they are there; only where this node knows peers and has pod CIDRs.

    ``enabled``: whether they are asked at all; without, a backend goes only when its cluster says so.
    ``interval_s``: how often each node is asked.
    ``budget``: so many questions a second at most, to all of them together; with more nodes each is asked less often.
    ``references``: addresses besides this cluster's other nodes that answer a TCP SYN (a gateway, a resolver): if none of
    them does any more, it is this node that is cut off.
    """

    enabled: bool = True
    interval_s: float = 0.05
    budget: int = 1000
    references: tuple[str, ...] = ()


def check(options: Probes) -> None:
    """Returns if the options make sense.

    Raises:
        ConfigError: names the option and what to change.
    """
    if not 0.01 <= options.interval_s <= 10:
        raise ConfigError(f"probes.intervalS is {options.interval_s:g}, it must be 0.01..10")
    if options.budget < 1:
        raise ConfigError(f"probes.budget is {options.budget}, it must be at least 1")
    for text in options.references:
        try:
            ip_address(text)
        except ValueError as error:
            raise ConfigError(f"probes.references: {error}") from error
