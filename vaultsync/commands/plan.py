"""`vaultsync plan`: what a vaultsync that starts now would do for all selected ExternalSecrets."""

from argparse import Namespace
from datetime import UTC, datetime

from vaultsync.commands import console, exit_codes, output, planner
from vaultsync.commands.snapshot import run_once
from vaultsync.runtime import logging


def execute(arguments: Namespace) -> int:
    """Print the plan and end the process."""
    settings = console.load_settings()
    logging.configure(settings.log_format, "WARNING")
    found = run_once(planner.dry_run(settings))
    summary = planner.summarise(found)
    as_json = arguments.output == "json"
    text = output.plan_json(found, summary) if as_json else output.plan_table(found, summary, datetime.now(UTC))
    code = exit_codes.CHANGES if not summary.is_idle else exit_codes.FAILED if summary.unseen else 0
    return console.leave(code, text)
