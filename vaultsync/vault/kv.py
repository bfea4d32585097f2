"""Paths and responses of Vault's KV secrets engine, versions 1 and 2. Pure: this module sends no request.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from vaultsync.core import ownership
from vaultsync.core.errors import VaultRejected, VaultUnavailable
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, v2_path
from vaultsync.core.untrusted import mapping, parse_time, texts
from vaultsync.core.vault_state import SecretState


def v2_api_path(mount: Mount, folder: str, path: VaultPath) -> str:
    """The secret's path in a folder of KV v2's API, such as `metadata`.

    Raises:
        VaultRejected: the path is no data path of a KV v2 mount.
    """
    inner = v2_path(mount, path.path) if mount.kv == 2 else None
    if inner is None:
        raise VaultRejected(f"{path} is no data path of the KV v{mount.kv} mount {mount.path}")
    return f"{mount.path}{folder}/{inner}"


def list_path(mount: Mount, prefix: FindPrefix) -> str:
    """The path to LIST for the secrets below a prefix."""
    if mount.kv == 1:
        return prefix.prefix
    return f"{mount.path}metadata/{prefix.prefix.removeprefix(mount.path + 'data/')}"


def folder_path(mount: Mount, path: VaultPath) -> str:
    """The path to LIST for the secrets in a secret's folder."""
    listed = path.path if mount.kv == 1 else v2_api_path(mount, "metadata", path)
    folder, slash, _ = listed.rpartition("/")
    return folder + slash or mount.path


def parse_keys(response: Mapping[str, Any]) -> list[str]:
    """The names in the response to a LIST; folders end with a slash."""
    return list(texts(mapping(response.get("data")).get("keys")))


def parse_state(mount: Mount, response: Mapping[str, Any]) -> SecretState:
    """The state in the response to a read of `subkeys`, also where that is a 404.

    Raises:
        VaultUnavailable: the response is not Vault's.
    """
    data = mapping(response.get("data"))
    metadata = mapping(data.get("metadata"))
    subkeys, version = data.get("subkeys"), metadata.get("version") or 0
    if not isinstance(version, int):
        raise VaultUnavailable(f"a response that is not Vault's: a version in {mount.path} is no number", 200)
    return _state(mount, metadata, version, mapping(subkeys), exists=isinstance(subkeys, dict))


def parse_written(
    before: SecretState, names: Iterable[str], path: VaultPath, response: Mapping[str, Any]
) -> SecretState:
    """The state after a write of the named keys in KV v2.

    Raises:
        VaultUnavailable: the response is not Vault's.
    """
    metadata = mapping(response.get("data"))
    version = metadata.get("version")
    if not isinstance(version, int):
        raise VaultUnavailable(f"a response that is not Vault's on {path}")
    known = dict(before.subkeys or {}) if before.exists else {}
    return _state(before.mount, metadata, version, known | dict.fromkeys(names), exists=True)


def is_ambiguous(state: SecretState) -> bool:
    """Whether a KV v1 mount returns the same to a read of KV v2's API. The reverse case does not occur."""
    return state.mount.kv == 2 and state.version == 0


def _state(
    mount: Mount, metadata: Mapping[str, Any], version: int, subkeys: Mapping[str, Any], *, exists: bool
) -> SecretState:
    custom = mapping(metadata.get("custom_metadata"))
    rest = ownership.others(custom)
    return SecretState(
        mount=mount,
        exists=exists,
        version=version,
        subkeys=subkeys,
        written=parse_time(metadata.get("created_time")),
        metadata_digest=hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12] if rest else "",
        ownership=ownership.parse_ownership(custom),
        managed_by=str(custom.get(ownership.MANAGED_BY, "")),
        ends=parse_time(metadata.get("deletion_time")),
    )
