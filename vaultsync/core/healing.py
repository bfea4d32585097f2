"""Decides whether a value that existed may be created again. Pure, table-tested.

A first creation is harmless, as nobody has used the value. A second one replaces the last good value in Kubernetes: it
is right after a deletion, and wrong after a loss (a disabled mount, a restored snapshot), or where the value has
another owner.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, Refusal
from vaultsync.core.durations import age
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.ownership import EXTERNAL_SECRETS, MANAGED_BY, MANAGER
from vaultsync.core.paths import VaultPath, logical
from vaultsync.core.reader import Problem, Reader, Refused
from vaultsync.core.vault_state import SecretState

SHORTEST_LIFETIME: Final = timedelta(days=1)
"""A value that expires sooner is not created again when it does: each creation changes a password in use."""
APPROVAL: Final = timedelta(minutes=10)
"""How long annotations.HEAL_LOST counts."""


class Absence(Enum):
    """Why a path has no live version."""

    NEW = "it never existed"
    DELETED = "a client of Vault deleted it"
    EXPIRED = "it expired"
    LOST = "it existed, and Vault reports no deletion"


def is_approved(readers: Iterable[Reader], now: datetime) -> bool:
    """Whether a reader's owner has approved within APPROVAL that lost values are created."""
    times = [reader.heal.approved for reader in readers if reader.heal.approved is not None]
    return any(abs(now - time) <= APPROVAL for time in times)


def refusals(
    path: VaultPath,
    state: SecretState,
    readers: Iterable[Reader],
    absence: Absence,
    lost: str,
    pushed_by: Callable[[str], str],
) -> Iterator[tuple[ObjectName, Refused]]:
    """The readers for which a path without a live version may not be created, each with the reason.

    `lost` is why lost paths of the mount are not created now, or ""; `pushed_by` names the PushSecret to which the path
    belongs for readers of a Kubernetes namespace, or "".
    """
    where = logical(state.mount, path.path)
    if state.exists:
        where = f"a key of {where}"
    of_path = _of_path(where, state, absence, lost)
    for reader in readers:
        if pushed := pushed_by(reader.name.namespace):
            text = f"{where} is missing, and {pushed} writes it: vaultsync leaves it to its owner"
            yield reader.name, Refused(text, Refusal.OTHER_OWNER, CreatedReason.OTHER_OWNER)
        elif of_path is not None:
            yield reader.name, of_path
        elif absence is not Absence.NEW and not reader.heal.heals:
            yield reader.name, retired(f"{where} is missing")


def notice_of_expiry(path: VaultPath, state: SecretState) -> str:
    """The message to the owners of a value that will expire, "" if it will not."""
    lifetime = state.lifetime
    if not state.exists or state.ends is None or lifetime is None:
        return ""
    then = "create no new value" if lifetime < SHORTEST_LIFETIME else "create a new value"
    return (
        f"{logical(state.mount, path.path)} expires at {state.ends:%Y-%m-%dT%H:%M:%SZ} (delete_version_after="
        f"{age(lifetime.total_seconds())}), and vaultsync will {then}; to keep it, write it again with "
        "delete_version_after=0s"
    )


def contested(
    path: VaultPath, state: SecretState, readers: Iterable[Reader], pushed_by: Callable[[str], str]
) -> Iterator[Problem]:
    """The problem of a PushSecret for a path that vaultsync created: external-secrets does not write it.

    `pushed_by` is that of `refusals`.
    """
    if not state.exists or state.managed_by != MANAGER:
        return
    where = logical(state.mount, path.path)
    for reader in readers:
        if pushed := pushed_by(reader.name.namespace):
            text = (
                f"{pushed} is to write {where}, and external-secrets does not, because vaultsync created it; to hand "
                f"it over: vault kv metadata patch -custom-metadata={MANAGED_BY}={EXTERNAL_SECRETS} {where}"
            )
            yield Problem(reader.name, text, CreatedReason.OTHER_OWNER, Refusal.OTHER_OWNER)


def is_short_lived(state: SecretState) -> bool:
    """Whether the latest version expires, or has expired, so soon that it is not created again then."""
    return state.lifetime is not None and state.lifetime < SHORTEST_LIFETIME


def retired(what: str) -> Refused:
    """`what` is missing and existed, and its owner wants it created only once."""
    text = f'{what}, and annotation {annotations.HEAL} is "false": write it in Vault, or remove the annotation'
    return _refused(text, Refusal.RETIRED)


def _of_path(where: str, state: SecretState, absence: Absence, lost: str) -> Refused | None:
    if not state.exists and state.managed_by not in ("", MANAGER):
        text = (
            f"{where} is deleted, and its custom metadata has {MANAGED_BY}={state.managed_by[:80]}: vaultsync leaves "
            "it to this owner; to have vaultsync create it: "
            f"vault kv metadata patch -custom-metadata={MANAGED_BY}={MANAGER} {where}"
        )
        return Refused(text, Refusal.OTHER_OWNER, CreatedReason.OTHER_OWNER)
    lifetime = state.lifetime
    if absence is Absence.EXPIRED and lifetime is not None and is_short_lived(state):
        after = age(lifetime.total_seconds())
        text = (
            f"{where} has expired: its mount or metadata has delete_version_after={after}, and vaultsync would create "
            f"another value each {after}; set delete_version_after=0s, or write the value in Vault"
        )
        return _refused(text, Refusal.EXPIRED)
    if absence is Absence.LOST and lost:
        return _refused(f"{where} {lost}", Refusal.HEAL_LIMIT)
    return None


def _refused(message: str, refusal: Refusal) -> Refused:
    return Refused(message, refusal, CreatedReason.NOT_HEALED)
