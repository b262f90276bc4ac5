"""Packets made and taken apart by hand, for programs that the kernel runs on them.

Every checksum is computed here from nothing, by the rules of RFC 1071, so that a packet that went through a program can be
compared byte by byte with one that never did.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FRAGMENT_HEADER = 44

DESTINATION_MAC, SOURCE_MAC = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")


def checksum(data: bytes) -> int:
    """The one's complement of the one's complement sum over 16-bit words."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 or IPv6 packet of TCP, UDP or ICMP echo; ``ports`` of an echo are its identifier (both equal).

    ``kind`` is the type of an ICMP message; ``unsummed`` leaves the checksum of UDP out, as IPv4 allows.
    """

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes = b"payload of odd length"
    flags: int = ACK
    kind: int = 0
    ttl: int = 64
    identification: int = 0x1234
    dont_fragment: bool = True
    unsummed: bool = False

    @property
    def family(self) -> int:
        return 4 if isinstance(ip_address(self.source), IPv4Address) else 6

    def reply(self) -> Packet:
        """The same packet the other way round."""
        kind = {8: 0, 0: 8, 128: 129, 129: 128}[self.kind] if self.protocol in (ICMP, ICMPV6) else self.kind
        return replace(
            self, source=self.destination, source_port=self.destination_port,
            destination=self.source, destination_port=self.source_port, kind=kind,
        )  # fmt: skip

    def between(self, source: str, source_port: int, destination: str, destination_port: int) -> Packet:
        """The same packet with these ends."""
        return replace(
            self, source=source, source_port=source_port,
            destination=destination, destination_port=destination_port,
        )  # fmt: skip

    def transport(self) -> bytes:
        """The transport header and what it carries."""
        ports = struct.pack("!HH", self.source_port, self.destination_port)
        match self.protocol:
            case 6:
                header = ports + struct.pack("!IIBBHHH", 1000, 2000, 5 << 4, self.flags, 4096, 0, 0)
                return self._summed(header + self.payload, 16)
            case 17:
                header = ports + struct.pack("!HH", 8 + len(self.payload), 0)
                plain = header + self.payload
                return plain if self.unsummed else self._summed(plain, 6)
            case _:
                message = struct.pack("!BBHHH", self.kind, 0, 0, self.source_port, 7) + self.payload
                return self._summed(message, 2)

    def network(self, options: bytes = b"") -> bytes:
        """The whole packet, without a link header; ``options`` are IPv4's."""
        return with_network_header(self, self.transport(), options=options)

    def frame(self) -> bytes:
        """The whole packet as it is on an Ethernet link."""
        return framed(self.network())

    def _summed(self, data: bytes, at: int) -> bytes:
        covered = data if self.protocol == ICMP else pseudo_header(self, self.protocol, len(data)) + data
        found = checksum(covered)
        if self.protocol == UDP and found == 0:
            found = 0xFFFF
        return data[:at] + struct.pack("!H", found) + data[at + 2 :]


def echo(source: str, destination: str, identifier: int) -> Packet:
    """An echo request."""
    protocol, kind = (ICMP, 8) if isinstance(ip_address(source), IPv4Address) else (ICMPV6, 128)
    return Packet(protocol, source, identifier, destination, identifier, kind=kind)


def pseudo_header(packet: Packet, protocol: int, length: int) -> bytes:
    """What the checksum of a transport header covers besides itself (RFC 793, RFC 8200)."""
    ends = ip_address(packet.source).packed + ip_address(packet.destination).packed
    if packet.family == 4:
        return ends + struct.pack("!BBH", 0, protocol, length)
    return ends + struct.pack("!II", length, protocol)


def with_network_header(
    packet: Packet, data: bytes, protocol: int | None = None, fragment: int = 0, options: bytes = b""
) -> bytes:
    """``data`` behind an IP header; ``fragment`` is IPv4's field of flags and offset, ``options`` IPv4's options."""
    number = packet.protocol if protocol is None else protocol
    source, destination = ip_address(packet.source).packed, ip_address(packet.destination).packed
    if packet.family == 6:
        return struct.pack("!IHBB", 6 << 28, len(data), number, packet.ttl) + source + destination + data
    place = fragment or (0x4000 if packet.dont_fragment else 0)
    words = 5 + len(options) // 4
    header = struct.pack(
        "!BBHHHBBH",
        0x40 | words,
        0,
        4 * words + len(data),
        packet.identification,
        place,
        packet.ttl,
        number,
        0,
    )
    header += source + destination + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data


def fragments(packet: Packet, first_size: int) -> tuple[bytes, bytes]:
    """The frames of ``packet`` cut in two; the first carries ``first_size`` bytes (a multiple of 8) behind IP."""
    data, part = packet.transport(), first_size // 8
    if packet.family == 4:
        first = with_network_header(packet, data[:first_size], fragment=0x2000)
        return framed(first), framed(with_network_header(packet, data[first_size:], fragment=part))
    heads = [
        struct.pack("!BBHI", packet.protocol, 0, place, packet.identification) for place in (1, part << 3)
    ]
    bodies = (heads[0] + data[:first_size], heads[1] + data[first_size:])
    first, second = (with_network_header(packet, body, protocol=FRAGMENT_HEADER) for body in bodies)
    return framed(first), framed(second)


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An error that ``reporter`` sends to ``destination`` about ``about``, of which it quotes ``quoted`` bytes.

    ``kind`` and ``code`` as the family numbers them; ``rest`` is the second word, such as the MTU. ``options`` are in the
    quoted IPv4 header.
    """

    reporter: str
    destination: str
    about: Packet
    kind: int
    code: int = 0
    rest: int = 0
    quoted: int = 1000
    options: bytes = b""

    def frame(self) -> bytes:
        """The whole packet as it is on an Ethernet link."""
        protocol = ICMP if self.about.family == 4 else ICMPV6
        outer = Packet(protocol, self.reporter, 0, self.destination, 0, identification=0x4321, ttl=63)
        quotation = self.about.network(self.options)[: self.quoted]
        message = struct.pack("!BBHI", self.kind, self.code, 0, self.rest) + quotation
        covered = message if protocol == ICMP else pseudo_header(outer, protocol, len(message)) + message
        message = message[:2] + struct.pack("!H", checksum(covered)) + message[4:]
        return framed(with_network_header(outer, message))


def framed(packet: bytes) -> bytes:
    """``packet`` behind an Ethernet header."""
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return DESTINATION_MAC + SOURCE_MAC + struct.pack("!H", kind) + packet


def mapped(address: str) -> bytes:
    """The 16 bytes that stand for ``address`` in the maps."""
    ip = ip_address(address)
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + IPv4Address(ip).packed
