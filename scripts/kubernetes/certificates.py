"""The authority of a cluster, which signs everybody: its API server, its kubelets and their clients.

A client's common name is its user, its organizations are the user's groups
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/). Keys are EC P-256, files 0600.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshd.lab.record import replace_file

VALID = datetime.timedelta(days=30)
# Clocks may be set back.
BACKDATED = datetime.timedelta(hours=1)
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates into ``directory``; ``certificate`` is what others trust. Its own key is never written."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        replace_file(self.certificate, signed.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        user: str,
        groups: Iterable[str] = (),
        *,
        addresses: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address] = (),
        hosts: Iterable[str] = (),
    ) -> KeyPair:
        """A certificate for ``user`` in ``groups``; with ``addresses`` or ``hosts`` it serves there too."""
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        served: list[x509.GeneralName] = [x509.IPAddress(address) for address in addresses]
        served += [x509.DNSName(host) for host in hosts]
        builder = _builder(subject, self._name, key.public_key())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if served:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(x509.SubjectAlternativeName(served), critical=False)
        signed = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = user.replace(":", "-")
        pair = KeyPair(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        write_key(pair.key, key)
        replace_file(pair.certificate, signed.public_bytes(serialization.Encoding.PEM))
        return pair


def write_key(path: Path, key: Key) -> None:
    """PKCS 8, as every program of Kubernetes reads it."""
    replace_file(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def write_public(path: Path, key: Key) -> None:
    """The half of ``key`` that signatures are verified with."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    replace_file(path, key.public_key().public_bytes(serialization.Encoding.PEM, form))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
    )
