"""The certificate authority of a lab's cluster: signs the etcd and those who may read it, and lives as long as the lab."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from clustermesh import authority
from clustermesh.authority import KeyPair
from meshd.lab.record import replace_file

VALID = datetime.timedelta(days=30)


class Authority:
    """Signs certificates into ``directory``; ``certificate`` is what others trust."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        # Its key is never written: what the lab needs later (new pods) needs no certificates.
        self._authority = authority.Authority.make(name)
        self.certificate = directory / "ca.crt"
        replace_file(self.certificate, self._authority.pem)

    def issue(self, name: str, addresses: Iterable[IPv4Address | IPv6Address] = ()) -> KeyPair:
        """A certificate for ``name`` as common name; with ``addresses`` it serves there too, without it is a client only."""
        served = [str(address) for address in addresses]
        pair = self._authority.issue(name, [*served, "localhost"] if served else (), VALID)
        return authority.write_pair(self.directory, name, pair)
