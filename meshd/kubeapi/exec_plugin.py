"""Credentials from a program that a kubeconfig names: cloud providers' logins.

It is started when a credential is needed first, when the last one is about to expire, and when the API server refused it.
Source: Kubernetes `client.authentication.k8s.io/v1` (ExecCredential).
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from meshd.errors import ConfigError
from meshd.kubeapi.credentials import Certificate, Pem

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
TIMEOUT_S = 60.0
# A token that ends while a request is on its way is refused; the plugin is asked a little before.
EARLY = timedelta(seconds=15)


class ExecVariable(msgspec.Struct, frozen=True):
    name: str
    value: str = ""


class ExecSpec(msgspec.Struct, frozen=True, rename="camel"):
    """The section `exec` of a kubeconfig's user."""

    command: str
    api_version: str = VERSIONS[0]
    args: tuple[str, ...] | None = None
    env: tuple[ExecVariable, ...] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a plugin may want to know of the cluster (``provideClusterInfo``)."""

    server: str
    authorities: Pem | None
    server_name: str
    anybody: bool


class CredentialStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class Credential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: CredentialStatus | None = None


class ExecPlugin:
    """``directory``: where a relative command with a slash begins. ``shown``: a certificate of the kubeconfig's own."""

    def __init__(
        self, spec: ExecSpec, directory: Path, facts: ServerFacts, shown: Certificate | None
    ) -> None:
        self._spec = spec
        self._directory = directory
        self._facts = facts
        self._shown = shown
        self._status: CredentialStatus | None = None
        self._one_at_a_time = asyncio.Lock()

    async def token(self) -> str | None:
        """The token that the plugin gave, or gives now.

        Raises:
            ConfigError: it cannot be started, failed, or said something else; names the command and what it wrote.
        """
        async with self._one_at_a_time:
            if self._status is None or _ends(self._status, datetime.now(UTC)):
                self._status = await self._ask()
            return self._status.token

    def certificate(self) -> Certificate | None:
        """The certificate that came with the token."""
        status = self._status
        if status is None or not status.client_certificate_data or not status.client_key_data:
            return self._shown
        return Certificate(status.client_certificate_data.encode(), status.client_key_data.encode())

    def refused(self) -> bool:
        self._status = None
        return True

    async def _ask(self) -> CredentialStatus:
        spec = self._spec
        if spec.api_version not in VERSIONS:
            raise ConfigError(
                f"exec plugin {spec.command}: apiVersion {spec.api_version} is none of {', '.join(VERSIONS)}"
            )
        interactive = spec.interactive_mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if spec.interactive_mode == "Always" and not interactive:
            raise ConfigError(f"exec plugin {spec.command} must talk to somebody, and there is no terminal")
        variables = {variable.name: variable.value for variable in spec.env or ()}
        environment = {**os.environ, **variables, "KUBERNETES_EXEC_INFO": self._info(interactive)}
        command = str(self._directory / spec.command) if "/" in spec.command else spec.command
        try:
            process = await asyncio.create_subprocess_exec(
                command,
                *(spec.args or ()),
                env=environment,
                stdin=None if interactive else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=None if interactive else asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise ConfigError(
                f"exec plugin {command} cannot be started: {error.strerror}. {spec.install_hint}".rstrip(". ")
            ) from error
        try:
            async with asyncio.timeout(TIMEOUT_S):
                written, complaint = await process.communicate()
        except TimeoutError:
            raise ConfigError(f"exec plugin {command} did not end within {TIMEOUT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            said = (complaint or b"").decode(errors="replace").strip()[-300:]
            raise ConfigError(f"exec plugin {command} ended with status {process.returncode}: {said}")
        return _status(command, written, spec.api_version)

    def _info(self, interactive: bool) -> str:
        said: dict[str, object] = {"interactive": interactive}
        if self._spec.provide_cluster_info:
            said["cluster"] = _cluster(self._facts)
        info = {"apiVersion": self._spec.api_version, "kind": "ExecCredential", "spec": said}
        return msgspec.json.encode(info).decode()


def _status(command: str, written: bytes, version: str) -> CredentialStatus:
    try:
        credential = msgspec.json.decode(written, type=Credential)
    except msgspec.DecodeError as error:  # the output is not shown: it may hold a token
        raise ConfigError(f"exec plugin {command} wrote no ExecCredential: {error}") from None
    if credential.kind != "ExecCredential" or credential.api_version != version:
        raise ConfigError(
            f"exec plugin {command} wrote {credential.kind} of {credential.api_version}, not ExecCredential of {version}"
        )
    status = credential.status
    if status is None or not (status.token or (status.client_certificate_data and status.client_key_data)):
        raise ConfigError(f"exec plugin {command} gave neither a token nor a certificate with its key")
    return status


def _cluster(facts: ServerFacts) -> dict[str, object]:
    pem = facts.authorities
    pem = pem.read_bytes() if isinstance(pem, Path) else pem
    found: dict[str, object] = {"server": facts.server}
    if pem:
        found["certificate-authority-data"] = base64.b64encode(pem).decode()
    if facts.server_name:
        found["tls-server-name"] = facts.server_name
    if facts.anybody:
        found["insecure-skip-tls-verify"] = True
    return found


def _ends(status: CredentialStatus, now: datetime) -> bool:
    end = status.expiration_timestamp
    if end is None:
        return False
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    return end - EARLY <= now
