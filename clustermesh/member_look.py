"""One server of an etcd, asked by itself as any web client would: its certificate, its version, its clock.

etcd answers /version over HTTP beside gRPC, to whoever gets through TLS, and says the date. Blocking; for a thread.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

from cryptography import x509

from clustermesh.channel import Endpoint, TlsFiles
from clustermesh.snapshot import Member

TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 1 << 16

Clock = Callable[[], datetime.datetime]


def look_at(endpoint: Endpoint, tls: TlsFiles | None, clock: Clock) -> Member:
    """``endpoint`` as it answers; what it does not say is left out. ``clock``: the time, UTC."""
    address = f"{endpoint.host}:{endpoint.port}"
    if not endpoint.secure:
        try:
            return _asked(_dial(endpoint), Member(address, secure=False), clock)
        except OSError as error:
            return Member(address, secure=False, problem=_reason(error))
    files = tls or TlsFiles()
    try:
        # Without judging the certificate first, so that one that is not believed can be told of.
        with _wrap(_dial(endpoint), endpoint, files, believes=False) as connection:
            certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError) as error:
        return Member(address, problem=_reason(error))
    ends = certificate.not_valid_after_utc
    try:
        connection = _wrap(_dial(endpoint), endpoint, files, believes=True)
    except ssl.SSLCertVerificationError as error:
        return Member(address, ends=ends, chain_problem=error.verify_message)
    except OSError as error:
        return Member(address, ends=ends, problem=_reason(error))
    return _asked(connection, Member(address, ends=ends), clock)


def _dial(endpoint: Endpoint) -> socket.socket:
    host = endpoint.addresses[0] if endpoint.addresses else endpoint.host
    return socket.create_connection((host, endpoint.port), timeout=TIMEOUT_S)


def _wrap(raw: socket.socket, endpoint: Endpoint, files: TlsFiles, *, believes: bool) -> ssl.SSLSocket:
    try:
        context = ssl.create_default_context(cafile=files.trusted_ca)
        if not believes:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
        return context.wrap_socket(raw, server_hostname=endpoint.host)
    except BaseException:
        raw.close()
        raise


def _asked(connection: socket.socket, member: Member, clock: Clock) -> Member:
    asked = HTTPConnection(member.address)
    asked.sock = connection
    try:
        asked.request("GET", "/version")
        answer = asked.getresponse()
        now = clock()
        text = answer.read(MAX_ANSWER_BYTES)
    except (OSError, HTTPException) as error:
        return Member(member.address, member.secure, _reason(error), ends=member.ends)
    finally:
        asked.close()
    ahead_s = None
    if (date := answer.getheader("Date")) is not None:
        # In whole seconds: it is half a second older on average.
        said = email.utils.parsedate_to_datetime(date) + datetime.timedelta(seconds=0.5)
        ahead_s = (said - now).total_seconds()
    return Member(
        member.address, member.secure, ends=member.ends, version=_version(text), clock_ahead_s=ahead_s
    )


def _version(text: bytes) -> str:
    try:
        return str(json.loads(text)["etcdserver"])[:20]
    except (ValueError, KeyError, TypeError):
        return ""


def _reason(error: Exception) -> str:
    """On one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
