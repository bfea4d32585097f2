"""vault/tls: files that change, half change and are not there. Handshakes with them are in tests/integration."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.testbed.certificates import Authority, MountedFolder
from tests.unit.build import logged
from vaultsync.config.connection import TlsFiles
from vaultsync.vault.tls import Tls

ONE, OTHER = Authority("one"), Authority("other")


def files(authority: Authority) -> dict[str, str]:
    pair = authority.issue("vault.example")
    return {"ca.crt": authority.pem, "tls.crt": pair.certificate, "tls.key": pair.key}


def of(folder: MountedFolder) -> Tls:
    return Tls(TlsFiles(str(folder / "ca.crt"), str(folder / "tls.crt"), str(folder / "tls.key")))


def trusts(context: ssl.SSLContext) -> list[str]:
    return [ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)]


def test_the_context_is_the_same_until_a_file_changes(tmp_path: Path) -> None:
    folder = MountedFolder(tmp_path / "tls", files(ONE))
    tls = of(folder)
    first = tls.context()
    assert tls.context() is first
    assert trusts(first) == [ONE.pem]
    assert (first.verify_mode, first.check_hostname) == (ssl.CERT_REQUIRED, True)
    folder.replace(files(OTHER))
    second = tls.context()
    assert second is not first
    assert tls.context() is second
    assert trusts(second) == [OTHER.pem]


@pytest.mark.parametrize("how", ["another key", "cut", "empty", "gone"])
def test_files_that_do_not_fit_leave_the_last_good_ones_and_are_told_once(tmp_path: Path, how: str) -> None:
    good = files(ONE)
    folder = MountedFolder(tmp_path / "tls", good)
    tls = of(folder)
    first = tls.context()
    broken = {
        "another key": {**good, "tls.key": files(ONE)["tls.key"]},
        "cut": {**good, "ca.crt": good["ca.crt"][:100]},
        "empty": dict.fromkeys(good, ""),
        "gone": {},
    }
    with logged("WARNING") as lines:
        folder.replace(broken[how])
        assert [tls.context() for _ in range(3)] == [first] * 3
        assert len(lines) == 1
        assert "PRIVATE" not in lines[0]
        folder.replace(files(OTHER))
        assert trusts(tls.context()) == [OTHER.pem]
        assert len(lines) == 1


def test_a_file_that_is_written_in_place_counts_too(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(ONE.pem)
    tls = Tls(TlsFiles(str(file)))
    tls.context()
    file.write_text(ONE.pem + OTHER.pem)
    assert trusts(tls.context()) == [ONE.pem, OTHER.pem]


def test_without_good_files_from_the_start_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Tls(TlsFiles(str(tmp_path / "missing"))).context()


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(tmp_path: Path) -> None:
    folder = MountedFolder(tmp_path / "tls", files(ONE))
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (folder / "tls.key").write_bytes(secret)
    with pytest.raises(OSError, match="SSL"):
        of(folder).context()
