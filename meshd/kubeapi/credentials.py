"""Who asks: tokens that others rotate, and certificates of both ends, read again when their files change.

A projected service account token lives an hour and kubelet writes a new one well before; a request made with the old
one is refused, so a file is looked at before each request (one stat), not once.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshd.errors import ConfigError

# PEM as text, or the file that holds it.
Pem = bytes | Path
Signature = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a client shows of itself in the handshake."""

    chain: Pem
    key: Pem


class Bearer(Protocol):
    """Where a client's token, or the certificate it shows, comes from."""

    async def token(self) -> str | None:
        """The token as it is now; None: there is none. Raises ConfigError: it cannot be had."""

    def certificate(self) -> Certificate | None:
        """The certificate as it is now."""

    def refused(self) -> bool:
        """The server did not take what was had: whether asking again may give something else."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A token and a certificate that never change (certificate files may)."""

    value: str | None = None
    shown: Certificate | None = None

    async def token(self) -> str | None:
        return self.value

    def certificate(self) -> Certificate | None:
        return self.shown

    def refused(self) -> bool:
        return False


class TokenFile:
    """The token in ``path``, which somebody rotates."""

    def __init__(self, path: Path, shown: Certificate | None = None) -> None:
        self._path = path
        self._shown = shown
        self._signature: Signature = ()
        self._value = ""

    async def token(self) -> str | None:
        """The token that is in the file now."""
        try:
            signature = signature_of(self._path)
            if signature != self._signature:
                self._value = self._path.read_text().strip()
                self._signature = signature
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token {self._path} cannot be read: {reason_of(error)}") from error
        if not self._value:
            raise ConfigError(f"token {self._path} is empty")
        return self._value

    def certificate(self) -> Certificate | None:
        return self._shown

    def refused(self) -> bool:
        self._signature = ()
        return True


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client takes for the API server. ``authorities`` None: whom the machine trusts.

    ``server_name``: the name in the server's certificate, if it is another than the one that is dialled. ``anybody``: no
    check at all, which a kubeconfig may ask for.
    """

    authorities: Pem | None = None
    server_name: str = ""
    anybody: bool = False


class TlsContexts:
    """The TLS context of ``trust`` and the certificate shown, made anew when a file of either changed."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._signature: Signature | None = None
        self._context: ssl.SSLContext | None = None

    def context(self, shown: Certificate | None) -> ssl.SSLContext:
        """Connections made before go on as they are; new ones use this.

        Raises:
            ConfigError: a file cannot be read, or holds no certificate or key.
        """
        parts = (self._trust.authorities, shown.chain if shown else None, shown.key if shown else None)
        try:
            signature = tuple(signature_of(part) for part in parts)
            if self._context is None or signature != self._signature:
                self._context = _context(self._trust, shown)
                self._signature = signature
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = [str(part) for part in parts if isinstance(part, Path)]
            raise ConfigError(
                f"certificates {', '.join(files) or 'in the kubeconfig'} cannot be used: {reason_of(error)}"
            ) from error
        return self._context


def signature_of(part: Pem | None) -> Signature:
    """What tells one content from another without reading it. Raises OSError."""
    if not isinstance(part, Path):
        return (part,)
    found = part.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def reason_of(error: Exception) -> str:
    """The system's own words, without number and path."""
    return (getattr(error, "strerror", None) or str(error)) if isinstance(error, OSError) else str(error)


def _context(trust: Trust, shown: Certificate | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if trust.anybody:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust.authorities is not None:
        # Nobody else: the machine's own authorities have no say over a cluster's API server.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        pem = trust.authorities
        context.load_verify_locations(
            cadata=(pem.read_bytes() if isinstance(pem, Path) else pem).decode("ascii", "replace")
        )
    if shown is not None:
        with ExitStack() as files:
            chain, key = (files.enter_context(_as_file(pem)) for pem in (shown.chain, shown.key))
            context.load_cert_chain(chain, key, password=_no_password)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


@contextmanager
def _as_file(pem: Pem) -> Iterator[str]:
    """The ssl module takes a key from a file only; one that is in memory does not touch a disk."""
    if isinstance(pem, Path):
        yield str(pem)
        return
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
