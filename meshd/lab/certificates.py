"""The built-in certificate authority: one for each cluster of a lab, which signs its etcd and those who may read it.

Everything lives as long as the lab. Keys are EC P-256, files 0600.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshd.lab.record import replace_file

VALID = datetime.timedelta(days=30)
# Clocks of two machines never agree; of one machine they may still be set back.
BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates into ``directory``; ``certificate`` is what others trust."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        # The authority's key is never written: what the lab needs later (new pods) needs no certificates.
        self.certificate = directory / "ca.crt"
        replace_file(self.certificate, self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, addresses: Iterable[IPv4Address | IPv6Address] = ()) -> KeyPair:
        """A certificate for ``name`` as common name; with ``addresses`` it serves there too, without it is a client only."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_named(name), self._name, key.public_key())
        served: list[x509.GeneralName] = [x509.IPAddress(address) for address in addresses]
        if served:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            served.append(x509.DNSName("localhost"))
            builder = builder.add_extension(x509.SubjectAlternativeName(served), critical=False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        replace_file(pair.key, _pem(key))
        replace_file(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return pair


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


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
