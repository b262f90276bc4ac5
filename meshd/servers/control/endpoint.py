"""Where the control API can be reached: a Unix socket for this node, TCP with mTLS for others."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import structlog

from meshd.config import Tls
from meshd.errors import ConfigError
from meshd.servers.control.unix_callers import inner_path, make_inner_directory

log = structlog.get_logger(__name__)


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """``path`` is ours to listen at; a socket that a dead agent left there is taken away, and ours at the end.

    Raises:
        ConfigError: another agent uses it, or the directory cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"control socket {path}: {error.strerror} ({error.filename})") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise in_use(path) from None
        # An agent whose run directory was emptied beneath it holds another lock, and still answers.
        if answers(path):
            raise in_use(path)
        try:
            path.unlink(missing_ok=True)
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def in_use(path: Path) -> ConfigError:
    """What to say where another agent listens."""
    return ConfigError(f"control socket {path}: another agent answers there; stop it or set another runDir")


def answers(path: Path) -> bool:
    """Whether somebody listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def listen_unix(server: grpc.aio.Server, path: Path) -> None:
    """Let ``server`` answer what :mod:`meshd.servers.control.unix_callers` accepts at ``path``.

    Raises:
        ConfigError: it cannot be bound.
    """
    make_inner_directory(path)
    try:
        server.add_insecure_port(f"unix:{inner_path(path)}")
    except RuntimeError as error:
        raise ConfigError(f"control socket {path} cannot be bound: {error}") from error


def listen_tls(server: grpc.aio.Server, address: str, tls: Tls) -> int:
    """Let ``server`` listen at ``address`` (host:port) for clients with a certificate of ``tls.ca``; the port.

    Raises:
        ConfigError: a file cannot be used, or the address cannot be bound.
    """
    certificates = Certificates(tls)
    credentials = grpc.dynamic_ssl_server_credentials(
        certificates.first(),
        certificates.newer,  # type: ignore[arg-type] # None is what grpc documents for "no change"
        require_client_authentication=True,
    )
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(f"api.listen {address} cannot be bound: {error}") from error


class Certificates:
    """The files of ``tls``, read again when one of them has changed. A pair that does not fit leaves the old one in use."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen: tuple[tuple[int, int, int], ...] = ()

    def first(self) -> grpc.ServerCertificateConfiguration:
        """The certificates to start with.

        Raises:
            ConfigError: names the file and the reason.
        """
        try:
            self._seen = self._marks()
            return self._read()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"api.tls: {error}") from error

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, on a thread of its own; None: what it has is in force."""
        try:
            marks = self._marks()
            if marks == self._seen:
                return None
            found = self._read()
        except (OSError, ssl.SSLError) as error:
            # Half of a pair may be written: the next handshake looks again.
            log.warning("certificates cannot be used, the old ones stay in force", reason=str(error))
            return None
        self._seen = marks
        log.info("certificates read again", certificate=str(self._tls.certificate))
        return found

    def _marks(self) -> tuple[tuple[int, int, int], ...]:
        files = (self._tls.certificate, self._tls.key, self._tls.ca)
        return tuple(
            (found.st_ino, found.st_mtime_ns, found.st_size) for found in (file.stat() for file in files)
        )

    def _read(self) -> grpc.ServerCertificateConfiguration:
        # OpenSSL tells a pair that does not fit; gRPC would only fail every handshake.
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        check.load_cert_chain(self._tls.certificate, self._tls.key)
        check.load_verify_locations(self._tls.ca)
        pair = (self._tls.key.read_bytes(), self._tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self._tls.ca.read_bytes())
