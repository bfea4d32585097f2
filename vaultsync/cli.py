"""The command line: parses the arguments, and imports the module of the one command that is called."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, NoReturn

from vaultsync.commands import exit_codes

READ_ONLY: Final = "Reads Kubernetes and Vault once and writes to neither; the settings are those of `vaultsync run`."
EXPLAIN: Final = f"""Tells what an ExternalSecret reads, what Vault has there, and what vaultsync would do and why.
{READ_ONLY}

exit codes: 0 told, 1 no such ExternalSecret or no answer, 2 a wrong argument or setting
"""
PLAN: Final = f"""Tells for all selected ExternalSecrets what they read and what a vaultsync that starts now would do.
{READ_ONLY}

exit codes: 0 nothing to do, 1 failed (also: nothing to do as far as Vault lets look), 2 something to do,
            {exit_codes.PLAN_USAGE} a wrong argument or setting
"""
ORPHANS: Final = """Lists the paths that vaultsync made in Vault (by their mark, in KV v2) and no ExternalSecret reads.
All of the cluster's count as readers, whatever the settings select, and so do those that might read a path if their
store were there, open to them or in this Vault. A path of which somebody else has written a part, or the latest
version, is left out.
Who reads Vault without an ExternalSecret, or from another cluster, is not known: where clusters share a Vault, each
needs its own VAULTSYNC_CLUSTER from the start.

--delete deletes the latest version of each, unless it has changed since, so that Vault can undelete it. Not with
vaultsync's own token: take one of yours, with `update` on MOUNT/delete/*. What an ExternalSecret begins to read
meanwhile is no loss: a running vaultsync makes it anew.

exit codes: 0 listed, and deleted if asked to; 1 failed, or not all could be seen or was deleted,
            2 a wrong argument or setting
"""
POLICY: Final = """Prints the smallest Vault policy for the settings of `vaultsync run`, for `vault policy write`.
It counts on VAULTSYNC_SEED, VAULTSYNC_DRY_RUN, VAULTSYNC_SEED_PATHS, VAULTSYNC_SOURCE and VAULT_NAMESPACE, and asks
nobody: neither Kubernetes nor Vault, whose address and token may be missing. Vault's policies can't say "any mount":
name yours. OpenBao, and Vault before 1.15, refuse what it grants for the event stream (`subscribe`): with
VAULTSYNC_SOURCE=audit or poll it leaves that out.

exit codes: 0 printed, 2 a wrong argument or setting
"""
RUN: Final = f"""Runs the controller until SIGTERM or SIGINT. Then it waits for the answers to writes in Vault, marks
what they made and releases the Lease, all within 5 s.

exit codes: 0 stopped by a signal, 1 an address to listen on can't be had, 2 a wrong argument or setting,
            {exit_codes.BUG} a bug in vaultsync, of which one CRITICAL line of the log says where
"""
CHECK: Final = f"""Tells, from where it runs, whether vaultsync can work there: one line a check, with what mends it.
It asks for the settings, Kubernetes and each permission in it, external-secrets' CRDs, Vault, the token and its policy
in each mount that is in use, what tells of changes, Vault's audit devices (if the token may list them), the stores, and
the first ExternalSecret that is blocked. What needs something that failed is not asked.
{READ_ONLY}

--print-setup prints, in place of that, the shell commands by which an admin of Kubernetes and Vault sets up what did
not come out well, and all of it where nothing can be asked, such as without VAULT_ADDR. What it takes to log in goes by
VAULTSYNC_VAULT_AUTH. A person's rights in Kubernetes say nothing of vaultsync's: with a person's kubeconfig, all of
those are printed.

exit codes: 0 all is well, warnings or not (of --print-setup: printed), 1 something is red,
            2 a wrong argument or setting
"""


class _Parser(argparse.ArgumentParser):
    """Has an exit code for wrong arguments, and loads the settings only when its help lists them."""

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
            from vaultsync.config.variables import describe_variables

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
        return int(parsed.func(parsed))
    except exit_codes.UsageError as error:
        commands[parsed.command].error(str(error))


def _execute(module: str) -> Callable[[argparse.Namespace], int]:
    """Import the module of a command once it is called: most of them import all clients."""

    def execute(parsed: argparse.Namespace) -> int:
        return int(import_module(f"vaultsync.commands.{module}").execute(parsed))

    return execute


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="vaultsync",
        description="Seeds the Vault values that ExternalSecrets miss, and heals deleted and rotated ones.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.lists_settings = True
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, description: str | None = None, module: str = "") -> _Parser:
        made = commands.add_parser(
            name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.set_defaults(func=_execute(module or name))
        return made

    add("run", "run the controller until SIGTERM", RUN).lists_settings = True
    version = add("version", "print the version, and those of Python and the dependencies")
    explain = add("explain", "tell what one ExternalSecret reads, and why", EXPLAIN)
    plan = add("plan", "tell what would be done", PLAN)
    orphans = add("orphans", "list what vaultsync made and no ExternalSecret reads any more", ORPHANS)
    check = add("check", "tell whether it could work here, and what mends what is red", CHECK, "check.command")
    policy = add("policy", "print the Vault policy that it needs", POLICY)
    for made in (version, explain, plan, orphans, check):
        made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    explain.add_argument("name", metavar="NAMESPACE/NAME", help="of the ExternalSecret")
    plan.exit_usage = exit_codes.PLAN_USAGE
    orphans.add_argument("--delete", action="store_true", help="delete them, after a question")
    orphans.add_argument("--yes", action="store_true", help="with --delete: ask no question")
    check.add_argument("--print-setup", action="store_true", help="print the commands that set up what is missing")
    policy.add_argument(
        "--mount",
        metavar="PATH[=v1]",
        action="append",
        default=[],
        help="a mount of KV v2, or of KV v1 with =v1; may be given again; default: secret",
    )
    return parser, dict(commands.choices)
