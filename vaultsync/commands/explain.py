"""`vaultsync explain`: what one ExternalSecret reads, and what `run` would do about it."""

from argparse import Namespace
from datetime import UTC, datetime

from vaultsync.commands import console, exit_codes, output, planner
from vaultsync.commands.snapshot import run_once
from vaultsync.config.formats import is_namespace
from vaultsync.core.external_secret import ObjectName
from vaultsync.runtime import logging


def execute(arguments: Namespace) -> int:
    """Print the explanation and end the process."""
    namespace, _, name = arguments.name.partition("/")
    if not is_namespace(namespace) or not name or "/" in name:
        raise exit_codes.InputError(f"{arguments.name[:300]!r} must be NAMESPACE/NAME of an ExternalSecret")
    settings = console.load_settings()
    logging.configure(settings.log_format, "WARNING")
    found = run_once(planner.dry_run(settings, ObjectName(namespace, name)))
    if not found:
        console.say(f"there is no ExternalSecret {namespace}/{name} among those that the settings select")
        console.leave(exit_codes.FAILED)
    as_json = arguments.output == "json"
    text = output.explain_json(found[0]) if as_json else output.explain_table(found[0], datetime.now(UTC))
    return console.leave(0, text)
