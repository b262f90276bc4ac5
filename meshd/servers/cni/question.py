"""What a runtime asks, as values of our own: variables and network configuration are judged here and nowhere else.

https://www.cni.dev/docs/spec/: parameters, network configuration, `CNI_ARGS`, and the capabilities `ips` and `bandwidth`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from meshd.model import Address, parse_address
from meshd.model.attachment import AttachmentKey
from meshd.servers.cni.errors import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    UNDECODABLE,
    CniError,
)

# Ascending; the shim names them to who asks for VERSION. CHECK came with 0.4.0, GC and STATUS with 1.1.0.
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
IFNAME = re.compile(r"[^/:\s\0]{1,15}")


class ValidAttachment(msgspec.Struct, frozen=True, rename={"container_id": "containerID"}):
    """An attachment that a runtime still knows, in GC."""

    container_id: str
    ifname: str


class Bandwidth(msgspec.Struct, frozen=True, rename="camel"):
    """Limits of one container, in bits a second as the plugin `bandwidth` reads them; 0: none."""

    ingress_rate: int = 0
    egress_rate: int = 0


class RuntimeConfig(msgspec.Struct, frozen=True):
    """What a runtime adds for one container. ``ips``: addresses it wants, with or without a prefix length."""

    ips: tuple[str, ...] = ()
    bandwidth: Bandwidth = Bandwidth()


class NetworkConfig(
    msgspec.Struct,
    frozen=True,
    rename={
        "cni_version": "cniVersion",
        "prev_result": "prevResult",
        "runtime_config": "runtimeConfig",
        "valid": "cni.dev/valid-attachments",
    },
):
    """What we read of a network configuration. The specification's default of ``cni_version`` is 0.1.0."""

    cni_version: str = "0.1.0"
    name: str = ""
    prev_result: dict[str, Any] | None = None  # Any: another plugin's result is handed on as it is
    runtime_config: RuntimeConfig = RuntimeConfig()
    valid: tuple[ValidAttachment, ...] | None = None
    dns: dict[str, Any] | None = None  # Any: handed on as it is


@dataclass(frozen=True, slots=True)
class Question:
    """One command. What a command does not need is empty. ``limited``: a plugin after us limits the container's
    bandwidth, on the host's end of its link. ``trace`` is a W3C traceparent."""

    command: str
    config: NetworkConfig
    container_id: str = ""
    ifname: str = ""
    netns: str = ""
    namespace: str = ""
    name: str = ""
    asked: tuple[Address, ...] = ()
    limited: bool = False
    trace: str = ""

    @property
    def key(self) -> AttachmentKey:
        return self.container_id, self.ifname


def version_of(config: bytes) -> str:
    """The version an error is to be told in, also where the rest of ``config`` cannot be used."""
    try:
        found = msgspec.json.decode(config, type=NetworkConfig).cni_version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return VERSIONS[-1]
    return found if found in VERSIONS else VERSIONS[-1]


def question(variables: Mapping[str, str], config: bytes) -> Question:
    """What is asked.

    Raises:
        CniError: something is missing or not as it must be; names it.
    """
    command = variables.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}, not one of {', '.join(COMMANDS)}")
    read = _read(config)
    _check_version(command, read.cni_version)
    if not read.name:
        raise CniError(INVALID_CONFIG, "the network configuration has no name")
    _check_variables(command, variables)
    arguments = dict(each.split("=", 1) for each in variables.get("CNI_ARGS", "").split(";") if "=" in each)
    container = variables.get("CNI_CONTAINERID", "")
    return Question(
        command,
        read,
        container,
        variables.get("CNI_IFNAME", ""),
        variables.get("CNI_NETNS", ""),
        arguments.get("K8S_POD_NAMESPACE") or "default",
        arguments.get("K8S_POD_NAME") or container,
        addresses(read.runtime_config.ips, "runtimeConfig.ips"),
        any(msgspec.structs.astuple(read.runtime_config.bandwidth)),
        variables.get("TRACEPARENT", ""),
    )


def addresses(texts: Iterable[str], field: str) -> tuple[Address, ...]:
    """Addresses that are written with or without a prefix length.

    Raises:
        CniError: one is none; names it and ``field``.
    """
    try:
        return tuple(parse_address(text.partition("/")[0]) for text in texts)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{field}: {error}") from error


def addresses_of(result: Mapping[str, Any]) -> tuple[Address, ...]:
    """The addresses that another plugin's result (0.3.0 and later) gives the container.

    Raises:
        CniError: it is no such result.
    """
    try:
        texts = [str(each["address"]) for each in result.get("ips") or ()]
    except (TypeError, KeyError, AttributeError) as error:
        raise CniError(INVALID_CONFIG, "prevResult.ips is not a list of objects with an address") from error
    return addresses(texts, "prevResult.ips")


def _read(config: bytes) -> NetworkConfig:
    if not config.strip():
        return NetworkConfig()
    try:
        return msgspec.json.decode(config, type=NetworkConfig)
    except msgspec.ValidationError as error:
        raise CniError(INVALID_CONFIG, "the network configuration cannot be used", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CniError(UNDECODABLE, "the network configuration is not JSON", str(error)) from error


def _check_version(command: str, version: str) -> None:
    if version not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version!r} is none of {', '.join(VERSIONS)}")
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"{command} came with cniVersion {since}, asked in {version}")


def _check_variables(command: str, variables: Mapping[str, str]) -> None:
    missing = [name for name in NEEDED.get(command, ()) if not variables.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"{command} needs {', '.join(missing)}")
    if command not in NEEDED:
        return
    container, ifname = variables["CNI_CONTAINERID"], variables["CNI_IFNAME"]
    if not CONTAINER_ID.fullmatch(container):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is no container ID")
    if not IFNAME.fullmatch(ifname) or ifname in {".", ".."}:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname!r} is no name of an interface")
