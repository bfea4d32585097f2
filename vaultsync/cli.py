"""The command line: its commands, their help and exit codes."""

import argparse
import asyncio
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, NoReturn

from loguru import logger
from pydantic import ValidationError

from vaultsync import __version__
from vaultsync.core.check import is_red, removed_settings, right_settings, wrong_settings
from vaultsync.core.decide import SeedMode
from vaultsync.core.logins import ROLE, Auth
from vaultsync.core.objects import ObjectName
from vaultsync.core.policy import parse_mounts, policy
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.words import vocabulary
from vaultsync.kube.selection import is_namespace
from vaultsync.ops import logging
from vaultsync.settings import LOGIN, PREFIX, Settings, explain, removed_variables, variable

if TYPE_CHECKING:
    from vaultsync.engine.orphans import Orphan

EXIT_FAILED, EXIT_USAGE = 1, 2
EXIT_BUG: Final = 70
"""Of `run`: EX_SOFTWARE of sysexits.h."""
EXIT_CHANGES, EXIT_PLAN_USAGE = 2, 64
"""Of `plan`: 2 is that there is something to do, so that a wrong argument or setting is EX_USAGE of sysexits.h."""
NO_KUBECONFIG: Final = "KUBECONFIG: no usable Kubernetes configuration: {}"
READ_ONLY: Final = "Reads Kubernetes and Vault once and writes to neither; the settings are those of `vaultsync run`."
EXPLAIN: Final = f"""Tells what an ExternalSecret reads, what Vault has there, and what vaultsync would do and why.
{READ_ONLY}

exit codes: 0 told, 1 no such ExternalSecret or no answer, 2 a wrong argument or setting
"""
PLAN: Final = f"""Tells for all selected ExternalSecrets what they read and what a vaultsync that starts now would do.
{READ_ONLY}

exit codes: 0 nothing to do, 1 failed (also: nothing to do as far as Vault lets look), 2 something to do,
            {EXIT_PLAN_USAGE} a wrong argument or setting
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
ORPHANS_QUESTION: Final = "Delete the latest version of the {} above? The values can be undeleted in Vault. Type yes: "
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
            {EXIT_BUG} a bug in vaultsync, of which one CRITICAL line of the log says where
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
NOT_ASKED: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    **{name: Settings.model_fields[name].default for name, ways in LOGIN.items() if Auth.TOKEN not in ways},
    "vault_auth": Auth.TOKEN,
    "VAULT_TOKEN_FILE": "",
    "VAULT_TOKEN": "not-asked",
    "audit_listen": "unix:/not-asked",
}
"""The settings that must be set, for a command that has no use for them."""
NOT_SET: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    "VAULT_TOKEN": "not-asked",
    "vault_role": ROLE,
    "vault_jwt_file": "/not-asked",
    "vault_role_id": "not-asked",
}
"""In place of each that is not set, where the rest of the settings says what to set up."""


class _Parser(argparse.ArgumentParser):
    """Knows that 2 is not for wrong arguments everywhere."""

    exit_usage = EXIT_USAGE

    def error(self, message: str) -> NoReturn:
        """As argparse does, but for the exit code."""
        self.print_usage(sys.stderr)
        self.exit(self.exit_usage, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser, commands = _parsers()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    if parsed.command == "version":
        return _version(as_json=parsed.output == "json")
    if parsed.command == "run":
        return _run()
    if parsed.command == "policy":
        return _policy(parsed.mount)
    if parsed.command == "check":
        if parsed.print_setup and parsed.output == "json":
            commands["check"].error("--print-setup prints shell commands, and no JSON")
        return _print_setup() if parsed.print_setup else _check(as_json=parsed.output == "json")
    if parsed.command == "orphans":
        if problem := _unasked(delete=parsed.delete, sure=parsed.yes):
            commands["orphans"].error(problem)
        return _orphans(as_json=parsed.output == "json", delete=parsed.delete, sure=parsed.yes)
    name = getattr(parsed, "name", None)
    only = None if name is None else _object_name(name)
    if name is not None and only is None:
        _say(f"{name[:300]!r} must be NAMESPACE/NAME of an ExternalSecret")
        return EXIT_USAGE
    return _ask(only, as_json=parsed.output == "json")


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    settings = f"settings, all from the environment:\n{explain()}\n\n{vocabulary()}"
    parser = _Parser(
        prog="vaultsync",
        description="Seeds the Vault values that ExternalSecrets miss, and heals deleted and rotated ones.",
        epilog=settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run",
        help="run the controller until SIGTERM",
        description=RUN,
        epilog=settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    told = commands.add_parser("version", help="print the version, and those of Python and the dependencies")
    told.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    asked = {
        "explain": ("tell what one ExternalSecret reads, and why", EXPLAIN),
        "plan": ("tell what would be done", PLAN),
        "orphans": ("list what vaultsync made and no ExternalSecret reads any more", ORPHANS),
        "check": ("tell whether it could work here, and what mends what is red", CHECK),
    }
    for command, (help, description) in asked.items():
        made = commands.add_parser(
            command, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    commands.choices["explain"].add_argument("name", metavar="NAMESPACE/NAME", help="of the ExternalSecret")
    commands.choices["plan"].exit_usage = EXIT_PLAN_USAGE
    commands.choices["orphans"].add_argument("--delete", action="store_true", help="delete them, after a question")
    commands.choices["orphans"].add_argument("--yes", action="store_true", help="with --delete: ask no question")
    commands.choices["check"].add_argument(
        "--print-setup", action="store_true", help="print the commands that set up what is missing"
    )
    granted = commands.add_parser(
        "policy",
        help="print the Vault policy that it needs",
        description=POLICY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    granted.add_argument(
        "--mount",
        metavar="PATH[=v1]",
        action="append",
        default=[],
        help="a mount of KV v2, or of KV v1 with =v1; may be given again; default: secret",
    )
    return parser, dict(commands.choices)


def _object_name(text: str) -> ObjectName | None:
    namespace, _, name = text.partition("/")
    return ObjectName(namespace, name) if is_namespace(namespace) and name and "/" not in name else None


def _settings(given: Mapping[str, Any] | None = None) -> Settings | None:
    """The settings, some of which may be given otherwise; what is wrong with them is said, and None."""
    try:
        return Settings(**(given or {}))
    except ValidationError as error:
        _say(_one_line(error))
        return None


def _leave(code: int, text: str = "") -> NoReturn:
    """Print and end at once: a thread may still wait for Vault, and the interpreter would wait for it."""
    _write(text)
    logger.complete()
    sys.stderr.flush()
    os._exit(code)


def _write(text: str) -> bool:
    """Whether somebody reads it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has had enough
        return False
    return True


def _say(*lines: str) -> None:
    for line in lines:
        print(f"vaultsync: {line}", file=sys.stderr)


def _prepare(settings: Settings, log_level: str) -> None:
    """To be done before `app` is imported, which takes a second: not for `version`, `--help` or a wrong setting."""
    logging.configure(settings.log_format, log_level)
    os.environ.setdefault("HOME", "/nonexistent")  # kubernetes' asyncio client can't be imported without one


def _version(*, as_json: bool) -> int:
    """What a report of a bug needs, by what is installed: nothing is imported for it."""
    versions = {"vaultsync": __version__, "python": platform.python_version(), **_dependencies()}
    print(
        json.dumps(versions, indent=2)
        if as_json
        else "\n".join(f"{name} {version}" for name, version in versions.items())
    )
    return 0


def _dependencies() -> dict[str, str]:
    """The versions of what pyproject.toml asks for to run; none where vaultsync itself is not installed."""
    try:
        required = metadata.requires("vaultsync") or ()
    except metadata.PackageNotFoundError:
        return {}
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in required if "extra ==" not in one]
    return {name: metadata.version(name) for name in sorted(names)}


def _policy(mounts: Sequence[str]) -> int:
    settings = _settings(NOT_ASKED)
    if settings is None:
        return EXIT_USAGE
    seeds = settings.seed is not SeedMode.OFF and not settings.dry_run
    try:
        paths = SeedPaths.parse(settings.seed_paths, settings.vault_namespace)
        print(policy(paths, parse_mounts(mounts), seeds=seeds, streams=settings.source.streams), end="")
    except ValueError as error:
        _say(str(error))
        return EXIT_USAGE
    return 0


def _ask(only: ObjectName | None, *, as_json: bool) -> int:
    """`explain` of one ExternalSecret, `plan` of all."""
    usage = EXIT_PLAN_USAGE if only is None else EXIT_USAGE
    settings = _settings()
    if settings is None:
        return usage
    _prepare(settings, "WARNING")
    from vaultsync import app, tables
    from vaultsync.engine.survey import summarise
    from vaultsync.kube.client import NoKubeConfig

    text, code = "", EXIT_FAILED
    try:
        found, now = asyncio.run(app.survey(settings, only)), datetime.now(UTC)
    except NoKubeConfig as error:
        _say(NO_KUBECONFIG.format(error))
        code = usage
    except app.SurveyFailed as error:
        _say(str(error))
    else:
        summary = summarise(found)
        if only is None:
            text = tables.plan_json(found, summary) if as_json else tables.plan_table(found, summary, now)
            code = EXIT_CHANGES if not summary.is_idle else EXIT_FAILED if summary.unseen else 0
        elif found:
            text = tables.explain_json(found[0]) if as_json else tables.explain_table(found[0], now)
            code = 0
        else:
            _say(f"there is no ExternalSecret {only} among those that the settings select")
    _leave(code, text)


def _check(*, as_json: bool) -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        from vaultsync import tables

        lines = wrong_settings(_problems(error))
        _write(tables.check_json(lines) if as_json else tables.check_table(lines))
        return EXIT_USAGE
    _prepare(settings, "CRITICAL")  # what is to be said stands in the lines
    from vaultsync import app, tables

    removed = removed_settings(removed_variables(os.environ))
    lines = [right_settings(), *removed, *asyncio.run(app.check(settings)).lines]
    _leave(EXIT_FAILED if is_red(lines) else 0, tables.check_json(lines) if as_json else tables.check_table(lines))


def _print_setup() -> int:
    try:
        settings, asks = Settings(), True
    except ValidationError as error:
        wrong = {name for name, _ in _problems(error)}
        if any(map(os.environ.get, wrong)):
            _say(_one_line(error))
            return EXIT_USAGE
        given = {name: value for name, value in NOT_SET.items() if {name, PREFIX + name.upper()} & wrong}
        listens = bool(os.environ.get(f"{PREFIX}AUDIT_LISTEN"))
        made, asks = _settings(given if listens else {**given, "audit_listen": NOT_ASKED["audit_listen"]}), False
        if made is None:
            return EXIT_USAGE
        settings = made if listens else made.model_copy(update={"audit_listen": ""})
    _prepare(settings, "CRITICAL")
    from vaultsync import app

    try:
        text = asyncio.run(app.setup(settings, asks=asks))
    except ValueError as error:
        _say(str(error))
        return EXIT_USAGE
    _leave(0, text)


def _unasked(*, delete: bool, sure: bool) -> str:
    """What is wrong with the arguments of `orphans`, "" if nothing."""
    if sure and not delete:
        return "--yes is for --delete"
    if delete and not sure and not (sys.stdin and sys.stdin.isatty()):
        return "--delete asks on a terminal, and there is none: --yes asks no question"
    return ""


def _orphans(*, as_json: bool, delete: bool, sure: bool) -> int:
    settings = _settings()
    if settings is None:
        return EXIT_USAGE
    if delete and settings.dry_run:
        _say("VAULTSYNC_DRY_RUN is true: nothing is deleted")
        return EXIT_USAGE
    _prepare(settings, "WARNING")
    from vaultsync import app, tables
    from vaultsync.kube.client import NoKubeConfig

    code = EXIT_FAILED
    try:
        found = asyncio.run(app.orphans(settings))
        _say(*tables.gaps(found))
        text = tables.orphans_json(found) if as_json else tables.orphans_table(found, datetime.now(UTC))
        is_read = _write(text)
        is_done = True
        if delete and found.orphans:
            agreed = is_read and (sure or _agrees(found.orphans))
            is_done = agreed and asyncio.run(_delete(settings, found.orphans))
        code = 0 if is_done and not found.refused else EXIT_FAILED
    except NoKubeConfig as error:
        _say(NO_KUBECONFIG.format(error))
        code = EXIT_USAGE
    except app.SurveyFailed as error:
        _say(str(error))
    _leave(code)


def _agrees(orphans: Sequence["Orphan"]) -> bool:
    count = "path" if len(orphans) == 1 else f"{len(orphans)} paths"
    print(ORPHANS_QUESTION.format(count), end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
        print(file=sys.stderr)
    if answer.strip() == "yes":
        return True
    _say("nothing is deleted")
    return False


async def _delete(settings: Settings, orphans: Sequence["Orphan"]) -> bool:
    """Whether none was left alone."""
    from vaultsync import app, tables

    deleted = 0
    try:
        async for orphan, why in app.delete_orphans(settings, orphans):
            deleted += not why
            if why:
                _say(tables.left_alone(orphan, why))
    finally:
        _say(f"deleted {deleted} of {len(orphans)}")
    return deleted == len(orphans)


def _run() -> int:
    settings = _settings()
    if settings is None:
        return EXIT_USAGE
    _prepare(settings, settings.log_level)
    from vaultsync import app
    from vaultsync.kube.client import NoKubeConfig
    from vaultsync.lifecycle import BUG, crash

    code = 0
    try:
        asyncio.run(app.run(settings))
    except NoKubeConfig as error:
        _say(NO_KUBECONFIG.format(error))
        code = EXIT_USAGE
    except OSError as error:
        logger.error("vaultsync can't start", reason=str(error))
        code = EXIT_FAILED
    except Exception as error:  # noqa: BLE001 — the message of what nobody foresaw may hold a value
        logger.critical(BUG, **crash(error)._asdict(), exit_code=EXIT_BUG)
        code = EXIT_BUG
    _leave(code)


def _one_line(error: ValidationError) -> str:
    """Every wrong setting on one line."""
    return "; ".join(f"{name} {what}".strip() for name, what in _problems(error))


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    """The variable of each wrong setting and what would be right; never the value, which may be a token."""
    problems = []
    for detail in error.errors(include_input=False, include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        name = variable(name) if name in Settings.model_fields else name
        what = "is not set" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
        problems.append((name, what))
    return problems
