"""`vaultsync run`: start the controller, and translate the end of the process into an exit code."""

import asyncio
from argparse import Namespace
from collections.abc import Callable, Coroutine
from typing import Any

from loguru import logger

from vaultsync.commands import console, exit_codes
from vaultsync.commands.snapshot import NO_KUBECONFIG
from vaultsync.config.settings import Settings
from vaultsync.kube.client import NoKubeConfig
from vaultsync.runtime import app, logging
from vaultsync.runtime.lifecycle import BUG, crash


def execute(arguments: Namespace, start: Callable[[Settings], Coroutine[Any, Any, None]] = app.run) -> int:
    """Run until SIGTERM or SIGINT, then end the process; tests replace `app.run` to use other timings."""
    settings = console.load_settings()
    logging.configure(settings.log_format, settings.log_level)
    code = 0
    try:
        asyncio.run(start(settings))
    except NoKubeConfig as error:
        raise exit_codes.InputError(NO_KUBECONFIG.format(error)) from error
    except OSError as error:
        logger.error("vaultsync can't start", reason=str(error))
        code = exit_codes.FAILED
    except Exception as error:  # noqa: BLE001 — the message of an unknown error may hold a value
        logger.critical(BUG, **crash(error), exit_code=exit_codes.BUG)
        code = exit_codes.BUG
    return console.leave(code)
