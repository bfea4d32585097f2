"""`vaultsync policy`: print the smallest Vault policy for the settings. Asks neither Kubernetes nor Vault."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Final

from vaultsync.commands import console, exit_codes, vault_policy
from vaultsync.config.auth import Auth
from vaultsync.config.settings import LOGIN, Settings

PLACEHOLDERS: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    **{name: Settings.model_fields[name].default for name, ways in LOGIN.items() if Auth.TOKEN not in ways},
    "vault_auth": Auth.TOKEN,
    "VAULT_TOKEN_FILE": "",
    "VAULT_TOKEN": "not-asked",
    "audit_listen": "unix:/not-asked",
}
"""Replace the required settings, which the policy does not depend on."""


def execute(arguments: Namespace) -> int:
    """Print the policy; returns the exit code."""
    settings = console.load_settings(PLACEHOLDERS)
    try:
        mounts = vault_policy.parse_mounts(arguments.mount)
        streams = settings.source.streams
        print(vault_policy.policy(settings.seedable_paths, mounts, seeds=settings.seeds, streams=streams), end="")
    except ValueError as error:
        raise exit_codes.InputError(str(error)) from error
    return 0
