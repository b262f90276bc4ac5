"""The certificates that a client file names, as they are on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from clustermesh.channel import TlsFiles
from clustermesh.snapshot import CertificateFile


def certificates(tls: TlsFiles | None) -> tuple[CertificateFile, ...]:
    """Of the authority that is trusted, and what is shown; none where a client file names none."""
    return tuple(_each(tls)) if tls is not None else ()


def _each(tls: TlsFiles) -> Iterator[CertificateFile]:
    if tls.trusted_ca is not None:
        # While authorities change there are two; the one that lasts is what matters.
        yield _read(tls.trusted_ca, newest=True)
    if tls.certificate is None or tls.key is None:
        return
    shown = _read(tls.certificate)
    yield shown
    if not shown.problem and (problem := _key_problem(tls.certificate, tls.key)):
        yield CertificateFile(tls.key, problem=problem)


def _read(path: Path, *, newest: bool = False) -> CertificateFile:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return CertificateFile(path, problem=f"cannot be read: {error.strerror}")
    except ValueError as error:
        return CertificateFile(path, problem=f"is no certificate: {str(error).splitlines()[0]}")
    one = max(found, key=lambda each: each.not_valid_after_utc) if newest else found[0]
    return CertificateFile(path, _name(one), one.not_valid_before_utc, one.not_valid_after_utc)


def _key_problem(certificate: Path, key: Path) -> str:
    try:
        private = load_pem_private_key(key.read_bytes(), None)
        public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError) as error:
        return f"is no key that can be used: {str(error).splitlines()[0]}"
    return "" if private.public_key() == public else f"is not the key of {certificate}"


def _name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""
