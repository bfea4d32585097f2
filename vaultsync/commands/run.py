"""`vaultsync run`: start the controller, and translate the end of the process into an exit code."""

import asyncio
from argparse import Namespace

from loguru import logger

from vaultsync.commands import console, exit_codes
from vaultsync.commands.snapshot import NO_KUBECONFIG
from vaultsync.kube.client import NoKubeConfig
from vaultsync.runtime import app, logging
from vaultsync.runtime.lifecycle import BUG, crash


def execute(arguments: Namespace) -> int:
    """Run until SIGTERM or SIGINT, then end the process."""
    settings = console.load_settings()
    logging.configure(settings.log_format, settings.log_level)
    code = 0
    try:
        asyncio.run(app.run(settings))
    except NoKubeConfig as error:
        raise exit_codes.InputError(NO_KUBECONFIG.format(error)) from error
    except OSError as error:
        logger.error("vaultsync can't start", reason=str(error))
        code = exit_codes.FAILED
    except Exception as error:  # noqa: BLE001 — the message of an unknown error may hold a value
        logger.critical(BUG, **crash(error)._asdict(), exit_code=exit_codes.BUG)
        code = exit_codes.BUG
    return console.leave(code)
