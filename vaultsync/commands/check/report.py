"""What `vaultsync check` says: of each thing that was asked, whether it is as it must be, and what mends it.

Pure: gets what was found, and asks nobody. `checkup` asks; `tables` prints.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from vaultsync.commands.check.rbac import Question, Right
from vaultsync.commands.vault_policy import Asked, command
from vaultsync.config.audit_address import PORT, enable_to_service
from vaultsync.config.auth import Auth, AuthConfig, make_token
from vaultsync.core import annotations
from vaultsync.core.durations import age
from vaultsync.core.paths import Mount
from vaultsync.vault.api import CAPABILITIES, LOOK_UP, POLICY_NAME, Health, Token

SHOWN: Final = 3
"""Names of one kind in one line; of the rest their number."""
LONGEST: Final = 300
"""Characters of what others wrote, in one line."""
SERVICE_ACCOUNT: Final = "system:serviceaccount:vaultsync:vaultsync"
"""Whom deploy/base gives the rights."""
SETUP: Final = "`vaultsync check --print-setup`"
_SET_UP: Final = f"{SETUP} prints what makes {{}}, the role and its policy"


class Mark(StrEnum):
    """How a check came out."""

    OK = "ok"
    FAILED = "failed"
    WARNING = "warning"
    """It works, but not as well or as safely as it could."""
    NOT_ASKED = "not asked"
    """Something before it has to be mended first."""


class Name(StrEnum):
    """The checks, in the order in which they are made."""

    SETTINGS = "settings"
    KUBERNETES = "kubernetes"
    CRDS = "crds"
    PERMISSION = "permission"
    VAULT = "vault"
    LOGIN = "login"
    SOURCE = "source"
    AUDIT = "audit"
    STORES = "stores"
    POLICY = "policy"
    EXTERNAL_SECRETS = "externalsecrets"


@dataclass(frozen=True, slots=True)
class Line:
    """One check.

    Attributes:
        of: which of its kind, such as a resource or a mount; "" where there is one alone.
        found: what is so.
        fix: what mends it, "" where nothing is to be done.
    """

    check: Name
    mark: Mark
    found: str
    fix: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """How a subscription to Vault's event stream went.

    Attributes:
        refused: Vault has answered that it has none, or not for this token.
        reason: why it is not there, "" where it is.
    """

    connected: bool
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditFile:
    """The file of VAULTSYNC_AUDIT_FILE.

    Attributes:
        problem: why it can't be read, "" if it can.
        grew: whether a request that was just made is in it.
    """

    problem: str = ""
    grew: bool = False


@dataclass(frozen=True, slots=True)
class Hearing:
    """What is set about hearing of changes.

    Attributes:
        wanted: VAULTSYNC_SOURCE.
        listen: VAULTSYNC_AUDIT_LISTEN.
        file: VAULTSYNC_AUDIT_FILE.
        interval: of the poll, in seconds.
        has_tls: whether VAULTSYNC_AUDIT_TLS_CERT is set.
    """

    wanted: str
    listen: str
    file: str
    interval: float
    has_tls: bool = False


def is_red(lines: Sequence[Line]) -> bool:
    """Whether something has to be mended."""
    return any(line.mark is Mark.FAILED for line in lines)


def not_asked(check: Name, because: str, of: str = "") -> Line:
    """It could not be asked.

    Args:
        check: which.
        because: what has to be mended first.
        of: as in Line.
    """
    return Line(check, Mark.NOT_ASKED, f"needs {because}", of=of)


# -- settings


def right_settings() -> Line:
    """All are valid."""
    return Line(Name.SETTINGS, Mark.OK, "all are valid")


def removed_settings(removed: Mapping[str, str]) -> list[Line]:
    """Variables that are set, and that this version does not know any more.

    Args:
        removed: what to do, by variable.
    """
    found = "has no effect any more"
    return [Line(Name.SETTINGS, Mark.WARNING, found, fix, name) for name, fix in removed.items()]


def wrong_settings(problems: Sequence[tuple[str, str]]) -> list[Line]:
    """Some are wrong, and nothing else is asked.

    Args:
        problems: the variable of each, "" where several contradict each other, and what is wrong.
    """
    help = "vaultsync run --help tells what is right"
    lines = [
        Line(Name.SETTINGS, Mark.FAILED, what, f"set {name}: {help}" if name else f"change one of them: {help}", name)
        for name, what in problems
    ]
    return lines + [not_asked(name, Name.SETTINGS) for name in Name if name is not Name.SETTINGS]


# -- Kubernetes


def no_kubernetes(problem: str, fix: str) -> Line:
    """There is no speaking to it."""
    return Line(Name.KUBERNETES, Mark.FAILED, cut(problem), fix)


def kubernetes(server: str, version: str, user: str) -> Line:
    """It answers."""
    return Line(Name.KUBERNETES, Mark.OK, f"{version} at {server}, as {user or 'a user whose name it does not tell'}")


def crds(served: Mapping[str, frozenset[str]], known: Sequence[str], kinds: Sequence[str]) -> Line:
    """Whether external-secrets is installed.

    Args:
        served: resources by served version.
        known: the versions that vaultsync understands, best first.
        kinds: the resources that it needs of one.
    """
    fix = f"install external-secrets (https://external-secrets.io) of a version that serves {' or '.join(known)}"
    best = next((version for version in known if version in served), None)
    if best is None:
        others = f" but in {', '.join(sorted(served))}" if served else ""
        return Line(Name.CRDS, Mark.FAILED, f"{annotations.GROUP} is not served{others}", fix)
    missing = [kind for kind in kinds if kind not in served[best]]
    if missing:
        return Line(Name.CRDS, Mark.FAILED, f"{annotations.GROUP}/{best} has no {', '.join(missing)}", fix)
    return Line(Name.CRDS, Mark.OK, f"{annotations.GROUP}/{best} (served: {', '.join(sorted(served))})")


def permission(right: Right, refused: Sequence[Question], user: str, *, by_namespace: bool) -> Line:
    """Whether RBAC grants a right.

    Args:
        right: that was asked about.
        refused: of its questions those that were answered with no.
        user: who has asked.
        by_namespace: whether it was asked for some namespaces alone.
    """
    if not refused:
        return Line(Name.PERMISSION, Mark.OK, ", ".join(right.verbs), of=right.label)
    verbs = [verb for verb in right.verbs if any(one.verb == verb for one in refused)]
    places = sorted({one.namespace or one.name for one in refused} - {""})
    found = f"may not {', '.join(verbs)}{f' in {some(places)}' if places else ''}"
    return Line(Name.PERMISSION, Mark.FAILED, found, _rbac(user, by_namespace=by_namespace), right.label)


def permission_unknown(right: Right, problem: str) -> Line:
    """The API server does not say: that is no refusal."""
    fix = "bind the ClusterRole system:basic-user, which lets everybody ask for their own rights"
    return Line(Name.PERMISSION, Mark.WARNING, cut(problem), fix, right.label)


def _rbac(user: str, *, by_namespace: bool) -> str:
    manifests = "deploy/namespaced (with your namespaces)" if by_namespace else "deploy/base"
    if user in (SERVICE_ACCOUNT, ""):
        return f"kubectl apply -k . in your overlay of {manifests}, or what {SETUP} prints"
    return f"what {SETUP} prints, or as {SERVICE_ACCOUNT}, which your overlay of {manifests} gives the rights"


# -- Vault


def no_vault(address: str, problem: str, *, untrusted: bool) -> Line:
    """It gives no usable answer.

    Args:
        address: VAULT_ADDR.
        problem: what came instead.
        untrusted: its certificate is not trusted.
    """
    fix = f"set VAULT_ADDR to Vault's address, http or https as Vault listens, and let {address} be reached from here"
    if untrusted:
        fix = "set VAULT_CACERT to a PEM file with the CA that signed Vault's certificate, VAULT_ADDR to a name in that"
    return Line(Name.VAULT, Mark.FAILED, cut(problem), fix)


def vault(address: str, health: Health) -> Line:
    """It answers, and is of use or not."""
    if not health.initialized:
        return Line(Name.VAULT, Mark.FAILED, f"{address} is not initialised", "vault operator init, and unseal")
    if health.sealed:
        return Line(Name.VAULT, Mark.FAILED, f"{address} is sealed", f"VAULT_ADDR={address} vault operator unseal")
    role = "standby" if health.standby else "active"
    return Line(Name.VAULT, Mark.OK, f"{health.version} at {address}, unsealed, {role}")


def no_credential(problem: str, way: AuthConfig) -> Line:
    """What it logs in with can't be read.

    Args:
        problem: which file, and why.
        way: how it logs in.
    """
    if way.auth is Auth.APPROLE:
        fix = f"write role ID and secret ID into the files that the settings name: {SETUP} prints how"
    elif way.issues:
        name = "VAULTSYNC_VAULT_JWT_FILE"
        fix = f"name a file with the ServiceAccount's token in {name}, as deploy/base does; {_SET_UP.format(way.at)}"
    else:
        fix = f"write a token there, such as of {make_token(POLICY_NAME)}: {SETUP} prints how, and its policy"
    return Line(Name.LOGIN, Mark.FAILED, cut(problem), fix)


def no_login(problem: str, way: AuthConfig) -> Line:
    """Vault does not take what it logs in with.

    Args:
        problem: Vault's words.
        way: how it logs in.
    """
    if way.auth is Auth.APPROLE:
        fix = f"take a role ID and a secret ID that {way.at} knows: {SETUP} prints what makes both, role and policy"
    elif way.issues:
        shown = f"the token in {way.jwt_file}" if way.jwt_file else "its ServiceAccount's token"
        reads = (f"`vault read {shlex.quote(path)}`" for path in (way.role_at, f"{way.at}/config"))
        fix = f"have {way.role_at} take {shown}: {_SET_UP.format(way.at)}; what is there, {' and '.join(reads)} tell"
    else:
        fix = f"have {way.holding(POLICY_NAME)}, with a policy that grants `read` on {LOOK_UP}: {SETUP} prints both"
    return Line(Name.LOGIN, Mark.FAILED, cut(problem), fix)


def no_look_up(problem: str, way: AuthConfig) -> Line:
    """It has logged in, and the token may not look at itself.

    Args:
        problem: Vault's words.
        way: how it logs in.
    """
    fix = f"grant `read` on {LOOK_UP} by the policy that {way.role_at} gives: {SETUP} prints it"
    return Line(Name.LOGIN, Mark.FAILED, cut(problem), fix)


def login(token: Token, way: AuthConfig) -> Line:
    """The token is valid; whether it is one to live with.

    Args:
        token: of which Vault has told.
        way: how it logs in.
    """
    make = f"have {way.holding(token.policy or POLICY_NAME)}"
    if token.is_root:
        return Line(Name.LOGIN, Mark.FAILED, "a root token, which may read every value", make)
    if way.issues:
        life = f"it ends in {age(token.ttl)}, and vaultsync renews or replaces it" if token.ttl else "it does not end"
        return Line(Name.LOGIN, Mark.OK, f"policies {', '.join(token.policies)}; {life}")
    weak = []
    if token.uses:
        weak.append(f"ends after {token.uses} more requests")
    if token.ttl and not token.renewable:
        weak.append(f"ends in {age(token.ttl)} and can't be renewed")
    elif token.max_ttl or (token.ttl and not token.period):
        weak.append("can't be renewed for ever, as it has no period or an explicit_max_ttl")
    if not token.orphan:
        weak.append("ends with the token that made it, as it is no orphan")
    life = f"it ends in {age(token.ttl)}, and vaultsync renews it" if token.ttl else "it does not end"
    held = f"policies {', '.join(token.policies)}"
    if weak:
        return Line(Name.LOGIN, Mark.WARNING, f"{held}; the token {', and '.join(weak)}", make)
    return Line(Name.LOGIN, Mark.OK, f"{held}; {life}")


OF_ITS_OWN: Final = "sys/ and auth/"
"""What a policy grants besides the mounts."""


def policy(
    place: str,
    wanted: Sequence[Asked],
    granted: Mapping[str, frozenset[str]],
    fix: str,
    paths: int,
    in_all: int,
) -> Line:
    """Whether the token may do what is needed in one mount, or of Vault itself, and no more.

    Args:
        place: the mount, or OF_ITS_OWN.
        wanted: what was asked for.
        granted: Vault's answer, by path.
        fix: what writes the policy.
        paths: of how many secrets.
        in_all: how many are in use.
    """
    missing = {one.path: lacks for one in wanted if (lacks := one.needed - granted[one.path])}
    if missing:
        return Line(Name.POLICY, Mark.FAILED, f"may not {_on_paths(missing)}", fix, place)
    excess = {one.path: more for one in wanted if (more := granted[one.path] - one.most)}
    if excess:
        found = f"all that is needed, but it may also {_on_paths(excess)}"
        return Line(Name.POLICY, Mark.WARNING, found, fix, place)
    some_of = f"{paths} of " if paths < in_all else ""
    used = f" (asked for {some_of}{in_all} path{'' if in_all == 1 else 's'} in use)" if in_all else ""
    return Line(Name.POLICY, Mark.OK, f"all that is needed, and no more{used}", of=place)


def policy_unknown(place: str, problem: str, fix: str) -> Line:
    """Vault does not say what the token may do: that is no reason why it should not be enough."""
    return Line(Name.POLICY, Mark.WARNING, cut(problem), f"grant `update` on {CAPABILITIES}: {fix}", place)


def no_mount(path: str, problem: str) -> Line:
    """A path that is read, or the path of a store, is in no mount of KV."""
    fix = "name a mount of KV in the store's spec.provider.vault.path, and its version in spec.provider.vault.version"
    return Line(Name.POLICY, Mark.FAILED, cut(problem), fix, cut(path))


def mend_policy(mounts: Sequence[Mount], token: Token, way: AuthConfig, *, streams: bool) -> str:
    """The command that writes the policy.

    Args:
        mounts: all that are in use.
        token: vaultsync's.
        way: how it logs in.
        streams: whether this Vault has an event stream, and so knows the word `subscribe`.
    """
    source = "" if streams else "VAULTSYNC_SOURCE=poll "
    write = f"{source}{command(mounts)} | vault policy write {shlex.quote(token.policy or POLICY_NAME)} -"
    return write if token.policy else f"{write}, and have {way.holding(POLICY_NAME)}"


def _on_paths(found: Mapping[str, frozenset[str]]) -> str:
    """Such as `create, patch on secret/data/a, list on secret/metadata/ and on 3 more`."""
    first = [f"{', '.join(sorted(listed))} on {cut(path)}" for path, listed in list(found.items())[:SHOWN]]
    rest = len(found) - len(first)
    return ", ".join(first) + (f" and on {rest} more" if rest > 0 else "")


# -- the source

AUDIT_FIX: Final = (
    f"set VAULTSYNC_AUDIT_LISTEN, such as udp:0.0.0.0:{PORT}, and in Vault, beside another audit device: "
    f"{enable_to_service()}; on Vault's own machine: udp:127.0.0.1:{PORT} and address=127.0.0.1:{PORT}"
)


def offers_stream(version: str) -> bool:
    """Whether a Vault of this version has an event stream: community 1.13 to 1.15, Enterprise from 1.13 on."""
    number = re.match(r"(\d+)\.(\d+)\.", version)
    if number is None:
        return False
    numbers = (int(number[1]), int(number[2]))
    return numbers >= (1, 13) and ("+ent" in version or numbers < (1, 16))


def knows_subscribe(version: str) -> bool:
    """Whether events are sent by the capability `subscribe`: from 1.15 on."""
    number = re.match(r"(\d+)\.(\d+)\.", version)
    return number is not None and offers_stream(version) and (int(number[1]), int(number[2])) >= (1, 15)


def source(hearing: Hearing, stream: Stream, file: AuditFile, version: str, policy_fix: str) -> Line:
    """Which source tells of changes, and why.

    Args:
        hearing: what is set.
        stream: how the event stream was tried.
        file: how the audit file is.
        version: Vault's.
        policy_fix: what writes the policy.
    """
    audit, weak = _audit(hearing, file)
    chosen = f"as VAULTSYNC_SOURCE is {hearing.wanted}"
    poll = f"the poll, every {age(hearing.interval)}"
    if hearing.wanted == "poll":
        return Line(Name.SOURCE, Mark.OK, f"{poll}, {chosen}")
    if hearing.wanted == "audit":
        bad = Mark.FAILED if file.problem and not hearing.listen else Mark.WARNING
        return Line(Name.SOURCE, bad if weak else Mark.OK, f"{audit}, {chosen}", weak)
    if stream.connected:
        found = "the event stream, as Vault offers it"
        if audit and not weak:
            return Line(Name.SOURCE, Mark.OK, f"{found}; of deletions, which that tells to root tokens alone, {audit}")
        late = f"{found}; deletions, which that tells to root tokens alone, are healed late: "
        return Line(Name.SOURCE, Mark.WARNING, late + (audit or "there is no audit device"), weak or AUDIT_FIX)
    could = offers_stream(version)
    away = f"no event stream: {cut(stream.reason)}" if could else f"Vault {version} has no event stream"
    mend = policy_fix if could and stream.refused else "let a websocket from here through to Vault" if could else ""
    if hearing.wanted == "events":
        return Line(Name.SOURCE, Mark.FAILED, f"{away}, and {chosen}", mend or "set VAULTSYNC_SOURCE=auto")
    if audit and not weak:
        return Line(Name.SOURCE, Mark.WARNING if mend else Mark.OK, f"{audit}; {away}", mend)
    found = f"{poll}; {away}; and {audit or 'there is no audit device'}"
    return Line(Name.SOURCE, Mark.WARNING, found, mend or weak or AUDIT_FIX)


def _audit(hearing: Hearing, file: AuditFile) -> tuple[str, str]:
    """What is known of the audit device, "" where none is configured; and what is to be done about it."""
    if hearing.listen:
        unseen = "whether Vault has a device for it, `vault audit list` tells"
        return f"an audit device that writes to {hearing.listen} ({unseen})", ""
    if not hearing.file:
        return "", ""
    path = shlex.quote(hearing.file)
    if file.problem:
        return (
            f"the audit file {path} can't be read: {file.problem}",
            f"let {path} be read from here, as Vault writes it",
        )
    if not file.grew:
        silent = f"the audit file {path}, in which a request that was just made does not appear"
        return silent, f"vault audit list; vault audit enable file file_path={path}"
    return f"the audit file {path}", ""


# -- stores and ExternalSecrets


def stores(ours: Sequence[str], in_all: int, others: Mapping[str, str]) -> Line:
    """How many stores are in this Vault.

    Args:
        ours: VAULT_ADDR and VAULTSYNC_STORE_SERVERS.
        in_all: stores that are in this Vault.
        others: server by name, of the stores that are in another Vault.
    """
    alike = {name: server for name, server in others.items() if any(resembles(server, one) for one in ours)}
    named = alike or others
    servers = list(dict.fromkeys(cut(server) for server in named.values()))
    fix = f"if {some(servers)} {'is' if len(servers) == 1 else 'are'} this same Vault: "
    fix += f"VAULTSYNC_STORE_SERVERS={shlex.quote(','.join([*ours[1:], *servers[:SHOWN]]))}"
    found = f"{in_all} in this Vault"
    if alike:
        found += f"; {len(alike)} in what may be this Vault by another address: {some(list(alike))}"
        return Line(Name.STORES, Mark.WARNING if in_all else Mark.FAILED, found, fix)
    if others:
        found += f", {len(others)} in another: {some(list(others))}"
        return Line(Name.STORES, Mark.OK, found) if in_all else Line(Name.STORES, Mark.FAILED, found, fix)
    if in_all:
        return Line(Name.STORES, Mark.OK, found)
    where = f"create a SecretStore or ClusterSecretStore with spec.provider.vault.server {ours[0]}"
    return Line(Name.STORES, Mark.WARNING, "there is no store of Vault among what the settings select", where)


AGAIN: Final = "ask again; vaultsync itself goes on trying"


def external_secrets(reading: int, wanted: int, blocked: Sequence[tuple[str, str]], unasked: str) -> Line:
    """The first ExternalSecret that is blocked.

    Args:
        reading: ExternalSecrets that read this Vault.
        wanted: those that ask to be seeded.
        blocked: names and reasons.
        unasked: the Namespace of one that could ask for it, where none does and that is meant to be a mistake.
    """
    count = f"{reading} read{'s' if reading == 1 else ''} this Vault, {wanted} to be seeded"
    if blocked:
        name, reason = blocked[0]
        rest = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
        fix = f"vaultsync explain {name}" + (", and of all: vaultsync plan" if rest else "")
        return Line(Name.EXTERNAL_SECRETS, Mark.FAILED, f"{name} is blocked{rest}: {cut(reason)}", fix)
    if unasked:
        fix = f"kubectl annotate namespace {unasked} {annotations.SEED}=true"
        return Line(Name.EXTERNAL_SECRETS, Mark.WARNING, f"{count}: none asks for it", fix)
    return Line(Name.EXTERNAL_SECRETS, Mark.OK, f"{count}; none is blocked")


def resembles(one: str, other: str) -> bool:
    """Whether two addresses may well be of the same server: the same host, or a Service's longer and shorter names."""
    hosts = [_labels(address) for address in (one, other)]
    short, long = sorted(hosts, key=len)
    return bool(short) and long[: len(short)] == short


def _labels(address: str) -> list[str]:
    try:
        host = urlsplit(address.strip()).hostname or ""
    except ValueError:
        return []
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return [label for label in host.lower().split(".") if label]


def some(found: Sequence[str]) -> str:
    """The first few, and how many more."""
    first = ", ".join(cut(one) for one in found[:SHOWN])
    return first + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def cut(text: str) -> str:
    """What others wrote, of a length that can be read."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
