"""`vaultsync check`: check whether vaultsync can work here, or print the commands that set up what is missing.

Writes to neither Kubernetes nor Vault, and reads no value.
"""

import asyncio
import os
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from vaultsync.commands import console, exit_codes, output
from vaultsync.commands.check.audit_devices import check_audit
from vaultsync.commands.check.kubernetes_checks import KubernetesChecks
from vaultsync.commands.check.login_checks import check_vault_and_login
from vaultsync.commands.check.object_checks import count_stores, explain_all
from vaultsync.commands.check.policy_checks import PolicyChecks
from vaultsync.commands.check.report import CheckReport, Status, invalid_settings, valid_settings
from vaultsync.commands.check.setup import script, setup_plan
from vaultsync.commands.check.source_checks import probe_source
from vaultsync.commands.planner import DryRunPlanner
from vaultsync.commands.snapshot import connector, kube_session, recorded_mounts, vault_session
from vaultsync.config.auth import ROLE
from vaultsync.config.settings import PREFIX, Settings, removed_variables
from vaultsync.kube.client import KubeClient
from vaultsync.runtime import factory, logging

PLACEHOLDERS: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    "VAULT_TOKEN": "not-asked",
    "vault_role": ROLE,
    "vault_jwt_file": "/not-asked",
    "vault_role_id": "not-asked",
}
"""Replace the required settings that are not set, where the other settings determine what to set up."""


def execute(arguments: Namespace) -> int:
    """Check, or print the set-up script; returns the exit code if a setting is invalid, else ends the process."""
    as_json = arguments.output == "json"
    if arguments.print_setup and as_json:
        raise exit_codes.UsageError("--print-setup prints shell commands, and no JSON")
    return _print_setup() if arguments.print_setup else _print_report(as_json=as_json)


def _print_report(*, as_json: bool) -> int:
    formatted = output.check_json if as_json else output.check_table
    try:
        settings = Settings()
    except ValidationError as error:
        console.write(formatted(invalid_settings(console.problems(error))))
        return exit_codes.USAGE
    logging.configure(settings.log_format, "CRITICAL")  # the results contain all problems
    results = [*valid_settings(removed_variables(os.environ)), *asyncio.run(check(settings)).results]
    has_failures = any(result.status is Status.FAILED for result in results)
    return console.leave(exit_codes.FAILED if has_failures else 0, formatted(results))


def _print_setup() -> int:
    report = CheckReport()
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = {name for name, _ in console.problems(error)}
        if any(map(os.environ.get, wrong)):
            raise exit_codes.InputError(console.one_line(error)) from None
        settings = _complete_settings(wrong)
    else:
        logging.configure(settings.log_format, "CRITICAL")
        report = asyncio.run(check(settings))
    try:
        text = script(setup_plan(settings, report))
    except ValueError as error:
        raise exit_codes.InputError(str(error)) from error
    return console.leave(0, text)


def _complete_settings(missing: set[str]) -> Settings:
    """The settings with placeholders; VAULTSYNC_SOURCE=audit requires a listener, which the script then chooses."""
    given = {name: value for name, value in PLACEHOLDERS.items() if {name, PREFIX + name.upper()} & missing}
    if os.environ.get(f"{PREFIX}AUDIT_LISTEN"):
        return console.load_settings(given)
    settings = console.load_settings({**given, "audit_listen": "unix:/not-asked"})
    return settings.model_copy(update={"audit_listen": ""})


async def check(settings: Settings, connect_kube: Callable[[], Awaitable[KubeClient]] | None = None) -> CheckReport:
    """Run all checks; one that depends on a failed one does not run.

    Args:
        settings: of `vaultsync run`.
        connect_kube: returns a read-only client; None: by the settings.
    """
    connect_kube = connect_kube or connector(settings)
    report, index = CheckReport(), factory.create_index(settings)
    async with vault_session(settings) as (vault, login):
        planner = DryRunPlanner(index, vault, settings.seedable_paths, settings.seed, settings.heal_limit)
        policy = PolicyChecks(settings, vault, index, report)
        await KubernetesChecks(settings, report, planner).run(connect_kube)
        if not report.listing_needs:
            async with kube_session(connect_kube) as kube:
                planner.uuids = await recorded_mounts(settings, kube)
        await check_vault_and_login(settings, vault, login, report)
        report.mounts = await policy.find_mounts()
        report.add(await probe_source(settings, login, report, policy.fix))
        report.add(*await check_audit(settings, vault, has_token=report.token is not None))
        report.add(count_stores(settings, index, report))
        await policy.run()
        report.add(await explain_all(settings, planner, index, report))
    return report
