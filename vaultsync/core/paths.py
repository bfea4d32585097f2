"""Paths in Vault, and the rules by which external-secrets, Vault's API and Vault's events write them. Pure.

A secret is identified by its API path (`secret/data/dev-1/postgres` in KV v2, `kv1/dev-1/postgres` in v1):
external-secrets requests it, and it can be derived from an event without knowing the mounts.
"""

import posixpath
from dataclasses import dataclass
from typing import Final, NamedTuple

_REFUSED: Final = "%*?[]{}\\"
"""Escapes and wildcards: a program that interprets them would use another path than the author meant."""

MAX_NAMESPACE: Final = 1024
MAX_PATH: Final = 16 * 1024
"""Characters. Vault closes the connection of a request line over 1 MiB, which an ExternalSecret can contain."""


@dataclass(frozen=True, slots=True, order=True)
class VaultPath:
    """One secret: the Vault namespace ("" is the root) and the API path without `/v1/`."""

    namespace: str
    path: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.path}" if self.namespace else self.path


@dataclass(frozen=True, slots=True)
class FindPrefix:
    """The secrets that a `dataFrom.find` lists: those whose API path starts with `prefix`, which ends with a slash."""

    namespace: str
    prefix: str
    kv: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.prefix}*" if self.namespace else f"{self.prefix}*"

    def covers(self, path: VaultPath) -> bool:
        """Whether a listing of the prefix contains the path."""
        return path.namespace == self.namespace and path.path.startswith(self.prefix)


class Mount(NamedTuple):
    """A KV mount: its path with the closing slash, 1 or 2, and its UUID, "" where Vault does not report it."""

    path: str
    kv: int
    uuid: str = ""


def guessed_mount(path: str, kv: int) -> Mount:
    """The most likely mount of an API path, if Vault does not report it; `kv` is the version that the store claims."""
    before, data, _ = path.partition("/data/")
    return Mount(before + "/", 2) if kv == 2 and data else Mount(path.split("/", 1)[0] + "/", kv)


def clean(path: str) -> str:
    """The path as Vault's Go client sends it: after path.Join (https://pkg.go.dev/path#Join)."""
    return posixpath.normpath("/" + path.lstrip("/")).lstrip("/")


def clean_namespace(namespace: str) -> str:
    """A Vault namespace without outer slashes; "" for "root"."""
    stripped = namespace.strip("/")
    return "" if stripped == "root" else stripped


def secret_path(store_path: str | None, kv: int, key: str) -> str:
    """The API path that external-secrets 0.20 requests for a remoteRef.key.

    `store_path` is the store's `provider.vault.path`, None if it is not set; "" counts as set.
    """
    if store_path is not None:
        rest = key.removeprefix(store_path + "/")
        if kv == 2 and rest != key:
            rest = rest.removeprefix("data/")
        return clean("/".join([store_path, "data", rest] if kv == 2 else [store_path, rest]))
    if kv == 2 and "/data/" not in key:
        first, *rest_of = key.split("/")
        return clean("/".join([first, "data", *rest_of]))
    return clean(key)


def metadata_owner(store_path: str | None, kv: int, key: str) -> str | None:
    """The API path whose custom metadata a `metadataPolicy: Fetch` reads, None if external-secrets rejects it.

    Unlike in `secret_path`, no prefix of the key is removed, and without a store path the key must contain "data".
    """
    if kv == 1 or (store_path is None and "data" not in key):
        return None
    return clean(key if store_path is None else f"{store_path}/data/{key}")


def find_prefix(store_path: str | None, kv: int, path: str | None, *, tags: bool = False) -> str | None:
    """The prefix of the API paths that a `dataFrom.find` reads, None if external-secrets rejects it.

    Without a store path, the find path must contain "data" in KV v2; KV v1 has no tags.
    """
    if kv == 1 and tags:
        return None
    searched = f"{path}/" if path is not None else ""
    if store_path is None:
        if kv == 1 or "data" not in searched:
            return None
        return clean(searched) + "/"
    folder = f"{store_path}/data/{searched}" if kv == 2 else f"{store_path}/{searched}"
    return clean(folder) + "/"


def v2_path(mount: Mount, api_path: str) -> str | None:
    """The secret's path within a KV v2 mount, None if the API path is not a data path of it."""
    prefix = mount.path + "data/"
    return api_path[len(prefix) :] if api_path.startswith(prefix) and len(api_path) > len(prefix) else None


def logical(mount: Mount, api_path: str) -> str:
    """The path as Vault's CLI and web UI show it: without the API's `data/`."""
    inner = v2_path(mount, api_path) if mount.kv == 2 else None
    return api_path if inner is None else mount.path + inner


def unsendable_reason(namespace: str, path: str = "") -> str:
    """Why a request for a path can't be sent, and what to correct; "" if it can.

    The namespace is sent in an HTTP header; the reason quotes at most one character of it.
    """
    where = "spec.provider.vault.namespace of the store"
    if len(namespace) > MAX_NAMESPACE:
        return f"{where} has {len(namespace)} characters, more than {MAX_NAMESPACE}; name a Vault namespace there"
    odd = next((char for char in namespace if not "!" <= char <= "~"), "")
    if odd:
        kind = "which is not ASCII" if ord(odd) > 127 else "a space or control character"
        return f"{where} holds {odd!r} (U+{ord(odd):04X}), {kind}; name a Vault namespace there"
    if len(path) > MAX_PATH:
        return f"the path that store and key make up has {len(path)} characters, more than {MAX_PATH}"
    return ""


def unsafe_reason(text: str, what: str = "the key") -> str:
    """Why nothing is written for a key or path, "" if it may be; `what` is its name in the reason.

    `clean` removes outer slashes, so they are allowed; so is `+`, a wildcard in policies only that occurs in names.
    """
    segments = text.strip("/").split("/")
    if not text.strip("/"):
        return f"{what} is empty"
    if any(segment in (".", "..") for segment in segments):
        return f"{what} holds a '.' or '..' segment"
    if "" in segments:
        return f"{what} holds an empty segment: two slashes in a row"
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        return f"{what} holds a control character"
    odd = next((char for char in text if not char.isascii()), "")
    if odd:  # it may look like another character
        return f"{what} holds {odd!r} (U+{ord(odd):04X}), which is not ASCII"
    odd = next((char for char in text if char in _REFUSED), "")
    if odd:
        return f"{what} holds {odd}, and nothing is created for a path with any of {' '.join(_REFUSED)}"
    if any(segment != segment.strip() for segment in segments):
        return f"{what} holds a segment that starts or ends with white space"
    return ""
