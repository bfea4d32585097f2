"""`vaultsync orphans`: list the paths that no ExternalSecret reads any more, and delete them if the operator agrees."""

import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from vaultsync.commands import console, exit_codes, output
from vaultsync.commands.orphan_finder import Orphan, OrphanFinder, OrphanReport
from vaultsync.commands.snapshot import connector, kube_session, list_once, run_once, vault_session
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings
from vaultsync.core.errors import KubeDenied, first_reason
from vaultsync.core.paths import clean_namespace
from vaultsync.kube.discovery import cluster_id
from vaultsync.runtime import factory, logging

QUESTION: Final = "Delete the latest version of the {} above? The values can be undeleted in Vault. Type yes: "
NO_CLUSTER: Final = "the name of this cluster is unknown: set VAULTSYNC_CLUSTER as for `vaultsync run`"
NOT_ALL: Final = "orphans can be found only with the permission to list all ExternalSecrets of the cluster"


def execute(arguments: Namespace) -> int:
    """List and delete, then end the process."""
    delete, sure = arguments.delete, arguments.yes
    if sure and not delete:
        raise exit_codes.UsageError("--yes is for --delete")
    if delete and not sure and not (sys.stdin and sys.stdin.isatty()):
        raise exit_codes.UsageError("--delete asks a question on a terminal, and there is none: add --yes")
    settings = console.load_settings()
    if delete and settings.dry_run:
        raise exit_codes.InputError("VAULTSYNC_DRY_RUN is true: nothing is deleted")
    logging.configure(settings.log_format, "WARNING")
    found = run_once(_find(settings, arguments.unnamed))
    console.say(*output.gaps(found))
    as_json = arguments.output == "json"
    is_read = console.write(output.orphans_json(found) if as_json else output.orphans_table(found, datetime.now(UTC)))
    is_done = True
    if delete and found.orphans:
        agreed = is_read and (sure or _agrees(found.orphans))
        is_done = agreed and run_once(_delete(settings, arguments.unnamed, found.orphans))
    return console.leave(0 if is_done and not found.refused else exit_codes.FAILED)


def _agrees(orphans: Sequence[Orphan]) -> bool:
    count = "path" if len(orphans) == 1 else f"{len(orphans)} paths"
    print(QUESTION.format(count), end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
        print(file=sys.stderr)
    if answer.strip() == "yes":
        return True
    console.say("nothing is deleted")
    return False


async def _find(settings: Settings, unnamed: bool) -> OrphanReport:
    async with _listed_cluster(settings, unnamed) as orphans:
        return await orphans.find()


async def _delete(settings: Settings, unnamed: bool, chosen: Sequence[Orphan]) -> bool:
    """Soft-delete those that have not changed since; returns whether all are deleted."""
    deleted = 0
    try:
        async with _listed_cluster(settings, unnamed) as orphans, aclosing(orphans.delete(chosen)) as results:
            async for orphan, why in results:
                deleted += not why
                if why:
                    console.say(output.not_deleted(orphan, why))
    finally:
        console.say(f"deleted {deleted} of {len(chosen)}")
    return deleted == len(chosen)


@asynccontextmanager
async def _listed_cluster(settings: Settings, unnamed: bool) -> AsyncIterator[OrphanFinder]:
    """List all ExternalSecrets of the cluster, whatever the settings select.

    With `unnamed`, the orphans are those of earlier releases, which wrote no cluster by default.
    """
    async with vault_session(settings) as (vault, login):
        await login.log_in()
        namespace = clean_namespace(settings.vault_namespace)
        found = OrphanFinder(factory.create_index(settings), vault, namespace)
        try:
            async with kube_session(connector(settings)) as kube:
                await list_once(kube, found, Selection())
                cluster = settings.cluster or await cluster_id(kube)
        except ExceptionGroup as errors:
            if errors.subgroup(KubeDenied):
                raise KubeDenied(f"{NOT_ALL}: {first_reason(errors)}") from errors
            raise
        if not cluster and not unnamed:
            raise KubeDenied(NO_CLUSTER)
        found.cluster = "" if unnamed else cluster
        yield found
