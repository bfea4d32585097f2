"""Checks of what is listed in Kubernetes: which stores are in this Vault, and which ExternalSecrets are blocked."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from vaultsync.commands.check.report import MAX_NAMES, RETRY, Check, CheckReport, CheckResult, cut, some
from vaultsync.commands.planner import DryRunPlanner, Explanation
from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index
from vaultsync.core.annotation_parser import SeedChoice, SeedMode
from vaultsync.core.annotations import SEED
from vaultsync.core.errors import VaultsyncError, first_reason
from vaultsync.core.external_secret import FindRef, RemoteRef

MAX_REASON: Final = 600
"""Characters of the reason for a blocked ExternalSecret, which may contain a command."""


def count_stores(settings: Settings, index: Index, report: CheckReport) -> CheckResult:
    """Whether the listed stores are in this Vault."""
    if report.listing_error:
        return Check.STORES.failed(cut(report.listing_error), RETRY)
    if report.listing_needs:
        return Check.STORES.not_asked(report.listing_needs)
    own, others = 0, {}
    for store in index.stores():
        if index.is_ours(store):
            own += 1
        elif store.server is not None:
            others[str(store.name)] = store.server
    return check_stores(settings.servers, own, dict(sorted(others.items())))


def check_stores(servers: Sequence[str], own: int, others: Mapping[str, str]) -> CheckResult:
    """Whether the listed stores are in this Vault.

    Args:
        servers: VAULT_ADDR, then VAULTSYNC_STORE_SERVERS.
        own: number of stores in this Vault.
        others: server of each store in another Vault.
    """
    alike = {name: server for name, server in others.items() if any(resembles(server, one) for one in servers)}
    found = f"{own} in this Vault"
    fix = _add_servers(servers, list(dict.fromkeys(map(cut, (alike or others).values()))))
    if alike:
        found += f"; {len(alike)} in what may be this Vault by another address: {some(list(alike))}"
        return Check.STORES.warning(found, fix) if own else Check.STORES.failed(found, fix)
    if others:
        found += f", {len(others)} in another: {some(list(others))}"
    if own:
        return Check.STORES.ok(found)
    if others:
        return Check.STORES.failed(found, fix)
    create = f"create a SecretStore or ClusterSecretStore with spec.provider.vault.server {servers[0]}"
    return Check.STORES.warning("none of the selected stores is a store of Vault", create)


def _add_servers(servers: Sequence[str], more: Sequence[str]) -> str:
    value = shlex.quote(",".join([*servers[1:], *more[:MAX_NAMES]]))
    return f"if {some(more)} {'is' if len(more) == 1 else 'are'} this same Vault: VAULTSYNC_STORE_SERVERS={value}"


def resembles(one: str, other: str) -> bool:
    """Whether two addresses may be of one server: the same host, or a shorter and a longer name of a Service."""
    short, long = sorted((_labels(one), _labels(other)), key=len)
    return bool(short) and long[: len(short)] == short


def _labels(address: str) -> list[str]:
    try:
        host = urlsplit(address.strip()).hostname or ""
    except ValueError:
        return []
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return [label for label in host.lower().split(".") if label]


async def explain_all(settings: Settings, planner: DryRunPlanner, index: Index, report: CheckReport) -> CheckResult:
    """Plan every ExternalSecret as `vaultsync plan` does, and fill the report's `unseeded_namespace`."""
    if report.listing_needs or report.token is None:
        return Check.EXTERNAL_SECRETS.not_asked(report.listing_needs or Check.LOGIN)
    try:
        explained = await planner.explain()
    except ExceptionGroup as errors:
        if errors.split(VaultsyncError)[1] is not None:
            raise
        return Check.EXTERNAL_SECRETS.failed(cut(first_reason(errors)), RETRY)
    reading = [one for one in explained if _reads(index, one)]
    wanted = [one for one in reading if one.choice is SeedChoice.WANTED]
    blocked = [(str(one.name), problem) for one in explained if (problem := _problem(index, one))]
    needs_annotation = settings.seeds and settings.seed is SeedMode.ANNOTATED
    report.unseeded_namespace = reading[0].name.namespace if needs_annotation and reading and not wanted else ""
    return check_external_secrets(len(reading), len(wanted), blocked, report.unseeded_namespace)


def check_external_secrets(
    reading: int, wanted: int, blocked: Sequence[tuple[str, str]], unseeded_namespace: str
) -> CheckResult:
    """Whether an ExternalSecret is blocked, by name and reason; the result names the first.

    `reading` ExternalSecrets read this Vault, `wanted` of them are to be seeded; the namespace is that of CheckReport.
    """
    check = Check.EXTERNAL_SECRETS
    count = f"{reading} read{'s' if reading == 1 else ''} this Vault, {wanted} to be seeded"
    if blocked:
        name, reason = blocked[0]
        rest = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
        fix = f"vaultsync explain {name}" + (", and for all: vaultsync plan" if rest else "")
        return check.failed(f"{name} is blocked{rest}: {cut(reason, MAX_REASON)}", fix)
    if unseeded_namespace:
        fix = f"kubectl annotate namespace {unseeded_namespace} {SEED}=true"
        return check.warning(f"{count}: none has the annotation", fix)
    return check.ok(f"{count}; none is blocked")


def _reads(index: Index, explained: Explanation) -> bool:
    entry = index.entry(explained.name)
    return entry is not None and bool(entry.references or entry.prefixes)


def _problem(index: Index, explained: Explanation) -> str:
    """Why an ExternalSecret is blocked, "" if it is not.

    A reference to another Vault does not block it, nor does disabled seeding.
    """
    entry = index.entry(explained.name)
    if entry is None or explained.problem:
        return explained.problem
    references: tuple[RemoteRef | FindRef, ...] = (*entry.object.refs, *entry.object.finds)
    stores = {reference.field: index.store(reference.store) for reference in references}
    for status in explained.references:
        store = stores.get(status.field)
        is_foreign = store is not None and not index.is_ours(store)
        is_refused = bool(status.path) and status.presence is None
        if status.problems and (is_refused or (explained.choice is SeedChoice.WANTED and not is_foreign)):
            return status.problems[0]
    return ""
