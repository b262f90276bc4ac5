"""Names, endpoints and ports as a user types them."""

from __future__ import annotations

from meshd.api.v1 import service_pb2
from meshd.ctl.errors import UsageError

PROTOCOLS = {"TCP": service_pb2.PROTOCOL_TCP, "UDP": service_pb2.PROTOCOL_UDP}


def service_name(text: str, namespace: str) -> tuple[str, str]:
    """``web`` or ``default/web`` as namespace and name; the agent checks them."""
    before, slash, name = text.rpartition("/")
    return (before, name) if slash else (namespace, text)


def frontend(text: str) -> service_pb2.Frontend:
    """``[NAME=]ADDRESS:PORT[/PROTOCOL]``.

    Raises:
        UsageError: it is something else.
    """
    name, rest = split_name(text)
    rest, protocol = split_protocol(rest, text)
    address, colon, port = rest.rpartition(":")
    if not colon or (":" in address and not (address.startswith("[") and address.endswith("]"))):
        raise UsageError(f"{text!r} is not [NAME=]ADDRESS:PORT[/PROTOCOL]; IPv6 addresses stand in brackets")
    return service_pb2.Frontend(
        address=address.strip("[]"), port=number(port, text), protocol=protocol, port_name=name
    )


def port_of(text: str) -> tuple[str, int, service_pb2.Protocol.ValueType]:
    """``[NAME=]PORT[/PROTOCOL]`` as name, port and protocol.

    Raises:
        UsageError: it is something else.
    """
    name, rest = split_name(text)
    port, protocol = split_protocol(rest, text)
    return name, number(port, text), protocol


def split_name(text: str) -> tuple[str, str]:
    """What stands before the ``=``, and the rest."""
    name, equals, rest = text.partition("=")
    return (name, rest) if equals else ("", text)


def split_protocol(rest: str, text: str) -> tuple[str, service_pb2.Protocol.ValueType]:
    """What stands before the ``/``, and the protocol behind it (TCP if there is none).

    Raises:
        UsageError: it is neither TCP nor UDP.
    """
    rest, slash, protocol = rest.partition("/")
    known = PROTOCOLS.get(protocol.upper() if slash else "TCP")
    if known is None:
        raise UsageError(f"{text!r}: {protocol!r} is neither TCP nor UDP")
    return rest, known


def number(port: str, text: str) -> int:
    """A port as a number; whether it is one that can be is for the agent to say.

    Raises:
        UsageError: it is none.
    """
    if not (port.isdecimal() and port.isascii() and len(port) < 9):
        raise UsageError(f"{text!r}: {port!r} is not a port number")
    return int(port)
