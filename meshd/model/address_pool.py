"""Which addresses of this node pods may have, and which of them is next. Arithmetic only: who holds what is kept in
``state/attachments.py``.

**Reserved** addresses are given to nobody who does not ask for them by name; **excluded** ones are given to nobody.
The next address is looked for behind the one given last, so that an address comes back as late as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from meshd.errors import ConfigError
from meshd.model.address import Address, from_ip, is_ipv4, parse_address

Network = IPv4Network | IPv6Network
# First and last, both included, as numbers of their family.
Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class AddressRange:
    """One pod CIDR. ``free`` may be given to anybody, ``asked`` at all; ascending, not touching."""

    network: Network
    free: tuple[Interval, ...]
    asked: tuple[Interval, ...]

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network.version

    @property
    def usable(self) -> int:
        """How many addresses may be given to anybody."""
        return sum(last - first + 1 for first, last in self.free)

    def gives(self, address: Address) -> bool:
        """Whether anybody may get ``address``."""
        return self._is_in(self.free, address)

    def may_be_asked_for(self, address: Address) -> bool:
        """Whether somebody may have ``address`` by name."""
        return self._is_in(self.asked, address)

    def _is_in(self, intervals: tuple[Interval, ...], address: Address) -> bool:
        number = number_of(address)
        same_family = (self.version == 4) == is_ipv4(address)
        return same_family and any(first <= number <= last for first, last in intervals)

    def next_free(
        self, taken: Callable[[Address], bool], taken_most: int, after: Address | None
    ) -> Address | None:
        """The first address behind ``after`` (None: of all) that is not ``taken``; after the last one the first comes again.

        ``taken_most``: of so many at most ``taken`` is true, so no more than one more is looked at, in an IPv6 range too.
        """
        for number, _ in zip(self._numbers(after), range(min(taken_most + 1, self.usable)), strict=False):
            address = address_of(number, self.version)
            if not taken(address):
                return address
        return None

    def _numbers(self, after: Address | None) -> Iterator[int]:
        start = number_of(after) + 1 if after is not None else 0
        for first, last in self.free:
            yield from range(max(first, start), last + 1)
        for first, last in self.free:
            yield from range(first, min(last + 1, start))


def address_ranges(
    cidrs: Sequence[str], reserved: Iterable[str] = (), excluded: Iterable[str] = ()
) -> tuple[AddressRange, ...]:
    """The ranges of pod CIDRs ``cidrs``, in this order; ``reserved`` and ``excluded`` are addresses or CIDRs in them.

    The network's own address is never given (in IPv6 every router has it, RFC 4291 2.6.1), nor IPv4's broadcast address.

    Raises:
        ConfigError: something is no CIDR, overlaps, is outside, or leaves nothing; names the option.
    """
    networks = [_network("cni.podCidrs", text) for text in cidrs]
    held_back = [_within("cni.reserved", text, networks) for text in reserved]
    left_out = [_within("cni.excluded", text, networks) for text in excluded]
    found: list[AddressRange] = []
    for network in networks:
        for other in found:
            if other.network.overlaps(network):
                raise ConfigError(f"cni.podCidrs: {network} and {other.network} overlap")
        asked = _without(
            [_assignable(network)], [cidr for cidr in left_out if cidr.version == network.version]
        )
        free = _without(asked, [cidr for cidr in held_back if cidr.version == network.version])
        if not asked:
            raise ConfigError(f"cni.podCidrs: {network} has no address left that a pod could have")
        found.append(AddressRange(network, tuple(free), tuple(asked)))
    return tuple(found)


def health_addresses(cidrs: Iterable[str]) -> tuple[Address, ...]:
    """The node's own address among its pods': of the first CIDR of each family the network's own, which no pod gets.

    None of a family whose CIDR is too small to have one.
    """
    found: dict[int, Address] = {}
    for network in map(ip_network, cidrs):
        if network.num_addresses > 2:
            found.setdefault(network.version, from_ip(network.network_address))
    return tuple(found.values())


def number_of(address: Address) -> int:
    """``address`` as a number of its family."""
    return int.from_bytes(address[12:] if is_ipv4(address) else address, "big")


def address_of(number: int, version: int) -> Address:
    """The inverse of :func:`number_of`."""
    return parse_address(str(IPv4Address(number) if version == 4 else IPv6Address(number)))


def _network(option: str, text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def _within(option: str, text: str, networks: Iterable[Network]) -> Network:
    found = _network(option, text)
    # Of two CIDRs that overlap one holds the other.
    if any(network.overlaps(found) and network.prefixlen <= found.prefixlen for network in networks):
        return found
    raise ConfigError(f"{option}: {text} is in none of cni.podCidrs")


def _assignable(network: Network) -> Interval:
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.num_addresses <= 2:
        # RFC 3021 and RFC 6164: both are hosts; a single address is one.
        return first, last
    return first + 1, last - 1 if network.version == 4 else last


def _without(intervals: Iterable[Interval], holes: Iterable[Network]) -> list[Interval]:
    left = list(intervals)
    for hole in holes:
        low, high = int(hole.network_address), int(hole.broadcast_address)
        left = [part for interval in left for part in _split(interval, low, high)]
    return left


def _split(interval: Interval, low: int, high: int) -> Iterator[Interval]:
    first, last = interval
    if high < first or last < low:
        yield interval
        return
    if first < low:
        yield first, low - 1
    if high < last:
        yield high + 1, last
