"""Certificates for tests, and a folder of files that are replaced as Kubernetes does it in a mounted Secret."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM.

    Attributes:
        serial: as Vault's audit log writes it.
    """

    certificate: str
    key: str
    serial: str


class Authority:
    """A private CA."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        made = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.pem = _pem(made.sign(self._key, hashes.SHA256()))

    def issue(self, *hosts: str) -> Pair:
        """A certificate for servers and clients, with these host names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_name(hosts[0]), self._name, key)
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        certificate = made.add_extension(names, False).sign(self._key, hashes.SHA256())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return Pair(_pem(certificate), text, str(certificate.serial_number))


class MountedFolder:
    """A mounted Secret as in a pod: all names lead through one symlink, which is replaced atomically."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        folder.mkdir(parents=True)
        self.replace(files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def replace(self, files: Mapping[str, str]) -> None:
        """Replaces the contents of the files."""
        made = self._folder / f"..{next(self._numbers)}"
        made.mkdir()
        for name, text in files.items():
            (made / name).write_text(text)
        new = self._folder / "..data_tmp"
        new.symlink_to(made.name)
        os.replace(new, self._folder / "..data")

    def __truediv__(self, name: str) -> Path:
        return self._folder / name


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
