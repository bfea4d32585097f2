"""`vaultsync check`: ask whether vaultsync can work here, or print the commands that set up what is missing."""

import asyncio
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from vaultsync.commands import console, exit_codes, output
from vaultsync.commands.check.preflight import Asking, Checked, Checkup, missing
from vaultsync.commands.check.report import Hearing, is_red, removed_settings, right_settings, wrong_settings
from vaultsync.commands.check.setup import script
from vaultsync.commands.planner import Survey
from vaultsync.config.auth import ROLE
from vaultsync.config.settings import PREFIX, Settings
from vaultsync.config.variables import removed_variables
from vaultsync.core.callbacks import ignore
from vaultsync.core.decide import SeedMode
from vaultsync.core.paths import clean_namespace
from vaultsync.kube.client import connect
from vaultsync.runtime import factory, logging
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.client import VaultClient
from vaultsync.vault.stream import EventStream

PLACEHOLDERS: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    "VAULT_TOKEN": "not-asked",
    "vault_role": ROLE,
    "vault_jwt_file": "/not-asked",
    "vault_role_id": "not-asked",
}
"""Replace the required settings that are not set, where the other settings determine what to set up."""


def execute(arguments: Namespace) -> int:
    """Check or print the set-up; returns the exit code if a setting is wrong, else ends the process."""
    as_json = arguments.output == "json"
    if arguments.print_setup and as_json:
        raise exit_codes.UsageError("--print-setup prints shell commands, and no JSON")
    return _print_setup() if arguments.print_setup else _print_report(as_json=as_json)


def _print_report(*, as_json: bool) -> int:
    printed = output.check_json if as_json else output.check_table
    try:
        settings = Settings()
    except ValidationError as error:
        console.write(printed(wrong_settings(console.problems(error))))
        return exit_codes.USAGE
    logging.configure(settings.log_format, "CRITICAL")  # the lines report all problems
    removed = removed_settings(removed_variables(os.environ))
    lines = [right_settings(), *removed, *asyncio.run(check(settings)).lines]
    return console.leave(exit_codes.FAILED if is_red(lines) else 0, printed(lines))


def _print_setup() -> int:
    try:
        settings, asks = Settings(), True
    except ValidationError as error:
        wrong = {name for name, _ in console.problems(error)}
        if any(map(os.environ.get, wrong)):
            console.say(console.one_line(error))
            return exit_codes.USAGE
        given = {name: value for name, value in PLACEHOLDERS.items() if {name, PREFIX + name.upper()} & wrong}
        listens = bool(os.environ.get(f"{PREFIX}AUDIT_LISTEN"))
        replaced, asks = (
            console.load_settings(given if listens else {**given, "audit_listen": "unix:/not-asked"}),
            False,
        )
        if replaced is None:
            return exit_codes.USAGE
        settings = replaced if listens else replaced.model_copy(update={"audit_listen": ""})
    logging.configure(settings.log_format, "CRITICAL")
    found = asyncio.run(check(settings)) if asks else Checked()
    try:
        text = script(missing(_asking(settings), found))
    except ValueError as error:
        console.say(str(error))
        return exit_codes.USAGE
    return console.leave(0, text)


async def check(settings: Settings) -> Checked:
    """Ask Kubernetes and Vault for all that `run` needs. Writes to neither.

    Args:
        settings: those of `run`.

    Returns:
        What was found, whatever fails.
    """
    login = factory.create_login(settings)
    vault, index = VaultClient(login, waits=True), factory.create_index(settings)
    stream = EventStream(login, ignore, ignore, Metrics())
    survey = Survey(index, vault, settings.seedable_paths, settings.seed)
    try:
        checkup = Checkup(_asking(settings), login, vault, stream, index, survey)
        return await checkup.run(lambda: connect(settings.kubeconfig, settings.kube_timeout, read_only=True))
    finally:
        await login.close()
        await vault.close()


def _asking(settings: Settings) -> Asking:
    """The settings, as far as `check` asks something because of them."""
    return Asking(
        address=settings.vault_addr,
        servers=settings.servers,
        vault_namespace=clean_namespace(settings.vault_namespace),
        selection=settings.selection,
        seed_paths=settings.seedable_paths,
        seeds=settings.seeds,
        by_annotation=settings.seed is SeedMode.ANNOTATED,
        writes=not settings.dry_run,
        hearing=Hearing(
            settings.source.value,
            settings.audit_listen,
            settings.audit_file,
            settings.poll_interval,
            has_tls=bool(settings.audit_tls_cert),
        ),
        streams=settings.source.streams,
        way=settings.auth,
        lease=settings.election_lease,
        labels=settings.labels_leader,
    )
