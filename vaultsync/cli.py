"""The command line: parses the arguments, and imports the module of the one command that is called."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from vaultsync.commands import exit_codes

READ_ONLY: Final = "Reads Kubernetes and Vault once and writes to neither; the settings are those of `vaultsync run`."
EXPLAIN: Final = f"""Prints what an ExternalSecret reads, what Vault has there, and what vaultsync would do and why.
{READ_ONLY}

exit codes: 0 printed, 1 no such ExternalSecret or no answer, 2 an invalid argument or setting
"""
PLAN: Final = f"""Prints what all selected ExternalSecrets read, and what a vaultsync that starts now would do.
{READ_ONLY}

exit codes: 0 nothing to do, 1 failed (or nothing to do in what the token may read), 2 something to do,
            {exit_codes.PLAN_USAGE} an invalid argument or setting
"""
ORPHANS: Final = """Lists the paths that vaultsync created in Vault (by their ownership metadata, in KV v2) and that no
ExternalSecret reads. All ExternalSecrets of the cluster count as readers, whatever the settings select, also those that
could read a path if their store existed, could be used by them or was in this Vault. A path is left out if another
client has written a part of it, or its latest version.
Clients that read Vault without an ExternalSecret are not known. Paths of another cluster, by the UID of its Namespace
kube-system or its VAULTSYNC_CLUSTER, are never listed.

--delete soft-deletes the latest version of each path that has not changed since; Vault can undelete it. It needs a
token of yours with `update` on MOUNT/delete/*, not vaultsync's own. If an ExternalSecret reads a deleted path
meanwhile, a running vaultsync creates it again.

exit codes: 0 listed, and deleted if requested; 1 failed, or some paths could not be read or deleted,
            2 an invalid argument or setting
"""
POLICY: Final = """Prints the smallest Vault policy for the settings of `vaultsync run`, for `vault policy write`.
It depends on VAULTSYNC_SEED, VAULTSYNC_DRY_RUN, VAULTSYNC_SEED_PATHS, VAULTSYNC_SOURCE and VAULT_NAMESPACE, and sends
no request: the address and token of Vault need not be set. Vault's policies have no wildcard for a mount: name yours.
OpenBao, and Vault before 1.15, reject the capability for the event stream (`subscribe`): with VAULTSYNC_SOURCE=audit or
poll the policy does not contain it.

exit codes: 0 printed, 2 an invalid argument or setting
"""
RUN: Final = f"""Runs the controller until SIGTERM or SIGINT. Then it waits for the responses to pending writes, writes
their ownership metadata and releases the Lease, all within 5 s.

exit codes: 0 stopped by a signal, 1 an address to listen on is not available, 2 an invalid argument or setting,
            {exit_codes.BUG} a bug in vaultsync; one CRITICAL line of the log says where
"""
CHECK: Final = f"""Checks whether vaultsync can work here, and prints a line for each check, with a fix if it fails:
the settings, Kubernetes and each permission in it, external-secrets' CRDs, Vault, the token and its policy for each
mount in use, the source of changes, Vault's audit devices (if the token may list them), the stores, and the first
ExternalSecret that is blocked. Checks that depend on a failed one are skipped.
{READ_ONLY}

--print-setup prints, in place of the checks, the shell commands by which an admin of Kubernetes and Vault sets up what
failed; it prints all of them if nothing can be checked, such as without VAULT_ADDR. The commands for the login depend
on VAULTSYNC_VAULT_AUTH. With a person's kubeconfig it prints all permissions in Kubernetes, as those of a person are
not vaultsync's.

exit codes: 0 no check failed, warnings or not (with --print-setup: printed), 1 a check failed,
            2 an invalid argument or setting
"""


class _Parser(argparse.ArgumentParser):
    """Has its own exit code for invalid arguments, and loads the settings only when its help lists them."""

    exit_usage = exit_codes.USAGE
    lists_settings = False

    def error(self, message: str) -> NoReturn:
        """As argparse does, but for the exit code."""
        self.print_usage(sys.stderr)
        self.exit(self.exit_usage, f"{self.prog}: error: {message}\n")

    def format_help(self) -> str:
        """With the settings and annotations at the end, if wanted."""
        if self.lists_settings:
            from vaultsync.commands.help_text import vocabulary
            from vaultsync.config.settings import describe_variables

            self.epilog = f"settings, all from the environment:\n{describe_variables()}\n\n{vocabulary()}"
        return super().format_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser, commands = _parsers()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    os.environ.setdefault("HOME", "/nonexistent")  # kubernetes' asyncio client can't be imported without one
    try:
        command = import_module(f"vaultsync.commands.{parsed.module}")  # most of them import all clients
        return int(command.execute(parsed))
    except exit_codes.UsageError as error:
        commands[parsed.command].error(str(error))
    except exit_codes.InputError as error:
        print(f"vaultsync: {error}", file=sys.stderr)
        return commands[parsed.command].exit_usage


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="vaultsync",
        description="Creates the Vault values that ExternalSecrets need, and propagates deletions and rotations.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.lists_settings = True
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, description: str | None = None, module: str = "") -> _Parser:
        made = commands.add_parser(
            name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.set_defaults(module=module or name)
        return made

    add("run", "run the controller until SIGTERM", RUN).lists_settings = True
    version = add("version", "print the version, and those of Python and the dependencies")
    explain = add("explain", "print what one ExternalSecret reads, and what would be done", EXPLAIN)
    plan = add("plan", "print what would be done for all ExternalSecrets", PLAN)
    orphans = add("orphans", "list the paths that vaultsync created and no ExternalSecret reads", ORPHANS)
    check = add("check", "check whether vaultsync can work here, and print fixes", CHECK, "check.command")
    policy = add("policy", "print the Vault policy that vaultsync needs", POLICY)
    for made in (version, explain, plan, orphans, check):
        made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    explain.add_argument("name", metavar="NAMESPACE/NAME", help="namespace and name of the ExternalSecret")
    plan.exit_usage = exit_codes.PLAN_USAGE
    orphans.add_argument("--delete", action="store_true", help="soft-delete them, after a question")
    orphans.add_argument("--yes", action="store_true", help="with --delete: without a question")
    orphans.add_argument(
        "--unnamed",
        action="store_true",
        help="those of earlier releases, whose metadata names no cluster; only if no other cluster uses this Vault",
    )
    check.add_argument("--print-setup", action="store_true", help="print the commands that set up what is missing")
    policy.add_argument(
        "--mount",
        metavar="PATH[=v1]",
        action="append",
        default=[],
        help="a KV v2 mount, or a KV v1 mount with =v1; repeatable; default: secret",
    )
    return parser, dict(commands.choices)
