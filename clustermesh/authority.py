"""The certificate authority of a cluster: it signs the cluster's etcd and those who may read it. EC P-256.

What it signs is only ever shown to, or by, this cluster's etcd. Serving addresses are in the certificate; whom a
client is admitted as is its common name (access.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clustermesh.whole_file import write

AUTHORITY_VALID = datetime.timedelta(days=3650)
VALID = datetime.timedelta(days=365)
# Clocks of two machines never agree; of one machine they may still be set back.
BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs; ``pem`` is what others trust."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, name: str) -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(name)
        certificate = (
            _builder(subject, subject, key.public_key(), AUTHORITY_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, pair: Pair) -> Self:
        """The one that was made before; ValueError: it is none."""
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is no EC key")  # noqa: TRY004 - what is wrong is the file's content
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        if certificate.public_key() != key.public_key():
            raise ValueError("the authority's key does not belong to its certificate")
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def pair(self) -> Pair:
        """Its certificate and key."""
        return Pair(self.pem, _pem(self._key))

    def issue(self, name: str, served: Iterable[str] = (), valid: datetime.timedelta = VALID) -> Pair:
        """A certificate with ``name`` as common name; with ``served`` (addresses, host names) it serves there, too."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_named(name), self._certificate.subject, key.public_key(), valid)
        names = [_served(each) for each in served]
        if names:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))

    def has_signed(self, certificate: bytes) -> bool:
        """Whether ``certificate`` (PEM) is one of this authority, by its signature."""
        try:
            x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(self._certificate)
        except Exception:
            return False
        return True


def expires(certificate: bytes) -> datetime.datetime:
    """When the first certificate in ``certificate`` (PEM) ends, UTC; ValueError: there is none."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def write_pair(directory: Path, name: str, pair: Pair) -> KeyPair:
    """``pair`` as ``name``.crt and ``name``.key in ``directory``; the key first, 0600."""
    paths = KeyPair(directory / f"{name}.crt", directory / f"{name}.key")
    write(paths.key, pair.key)
    write(paths.certificate, pair.certificate, 0o644)
    return paths


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _served(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + valid)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
