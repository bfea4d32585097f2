"""`vaultsync check --print-setup`: what to set up, and the shell script for an admin of Kubernetes and Vault. No I/O.

The script is idempotent and contains no secret: the shell creates secrets, and stores them where the settings expect
them. Texts from the cluster and from Vault are quoted.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from vaultsync.commands.check.audit_devices import FILE, enable_device
from vaultsync.commands.check.login_checks import create_token, grant_policy
from vaultsync.commands.check.rbac import (
    DEFAULT_ACCOUNT,
    DEFAULT_LEASE,
    RbacRule,
    ServiceAccount,
    leader_rules,
    required_rules,
)
from vaultsync.commands.check.report import Check, CheckReport, Status
from vaultsync.commands.policy import DEFAULT_MOUNTS, policy
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.config.settings import Settings
from vaultsync.core import annotations
from vaultsync.core.paths import clean_namespace
from vaultsync.kube.informer_manager import NAMESPACES
from vaultsync.vault.api import POLICY_NAME, has_event_stream

AUDIENCE: Final = "vault"
"""Audience of the ServiceAccount token that deploy/base mounts for Vault."""
MOUNTED: Final = ("/var/run/secrets/", "/run/secrets/")
"""Where Kubernetes mounts files into a pod: their content belongs into a Secret."""
TOKEN_SECRET: Final = "vaultsync-vault-token"  # noqa: S105 — a name
"""Secret that the Deployment of deploy/token reads."""
APPROLE_SECRET: Final = "vaultsync-vault-approle"  # noqa: S105 — a name
"""Secret with role ID and secret ID that the Deployment of the Helm chart reads."""
ROLE: Final = "vaultsync"
"""Name of ClusterRole, Role and bindings."""
RBAC: Final = "rbac.authorization.k8s.io"
END: Final = "EOF"
"""No line of YAML or of a policy equals it."""

Manifest: TypeAlias = dict[str, object]

_HEAD: Final = """\
# Sets up what vaultsync needs; printed by `vaultsync check --print-setup`. Read it, then run it with sh as an admin of
# both Kubernetes and Vault (KUBECONFIG, VAULT_TOKEN). Running it again does no harm; it deletes nothing."""
_NOTHING: Final = "# Nothing is missing."
_AUDIT: Final = f"""\
# Once vaultsync runs: enable an audit device that sends each change to vaultsync, and that can't block Vault. Vault
# refuses a request that none of its audit devices can log: have another device beside it, such as a file.
#   {FILE}
#   {{}}"""
_DEVICES: Final = """\
# An audit device can block Vault. In OpenBao, change the configuration unless that allows the API to do it:
{}"""
_ENABLE: Final = """\
# In Vault: the auth method. An existing one keeps its configuration
methods=$(vault auth list -format=json)
case $methods in
*{found}*) ;;
*)
  vault auth enable -path={mount} {method}{configure}
  ;;
esac"""
_REVIEWER: Final = """
  # for a Vault in the same cluster; for others see README, Log in to Vault. If this fails, do it by hand first
  vault write {at}/config kubernetes_host=https://kubernetes.default.svc"""
_KEYS: Final = """\
# vaultsync does not know the issuer of the tokens. Once, as an admin, configure the public key of the API server's
# --service-account-signing-key-file in Vault, or jwks_url or oidc_discovery_url:
#   vault write {at}/config jwt_validation_pubkeys=@service-account.pub"""
_IDS: Final = """\
# role ID and secret ID, to {place}. A valid secret ID is kept
role_id=$(vault read -field=role_id {at}/role-id)
{look}
known=
if [ -n "$secret_id" ]; then
  known=$(printf %s "$secret_id" | vault write -format=json {at}/secret-id/lookup secret_id=-)
fi
if [ -z "$known" ]; then
  secret_id=$(vault write -f -field=secret_id {at}/secret-id)
fi"""
_APPLY: Final = """\
kubectl apply --server-side --force-conflicts -f - <<{end}
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
data:
{data}
{end}"""
_GRANT: Final = """\
# The token has other policies. If only vaultsync uses the role, let the role give this policy instead:
#   {}"""
_CRDS: Final = "# external-secrets is missing: https://external-secrets.io/latest/introduction/getting-started/"


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """What to set up.

    Attributes:
        crds: whether external-secrets is missing.
        rules: permissions in Kubernetes; none if they are granted.
        namespaces: the watched ones, by name; none if all are.
        policy: Vault's policy in HCL, "" if it is there.
        login: whether the login fails: role or token are to be created.
        grants_by_role: whether the login succeeds, but the role gives other policies.
        audience: of the ServiceAccount token, "" if vaultsync logs in with the token for the API server.
        audit: the command that enables an audit device, "" if a change source works.
        device_fixes: commands for the audit devices that can block Vault.
        namespace_to_seed: a namespace to annotate, "" if seeding is enabled somewhere.
    """

    account: ServiceAccount = DEFAULT_ACCOUNT
    crds: bool = False
    rules: Sequence[RbacRule] = ()
    namespaces: Sequence[str] = ()
    policy: str = ""
    policy_name: str = POLICY_NAME
    auth: AuthConfig = field(default_factory=AuthConfig)
    login: bool = False
    grants_by_role: bool = False
    audience: str = AUDIENCE
    audit: str = ""
    device_fixes: Sequence[str] = ()
    namespace_to_seed: str = ""
    address: str = ""
    vault_namespace: str = ""


def setup_plan(settings: Settings, report: CheckReport) -> SetupPlan:
    """Plan to set up everything that a check found missing, or could not check; all of it for an empty report.

    Permissions of a person say nothing about those of vaultsync: with a person's credentials, the plan has all rules.

    Raises:
        ValueError: a glob of VAULTSYNC_SEED_PATHS matches none of the mounts.
    """
    account, token, auth = ServiceAccount.parse(report.user), report.token, settings.auth
    needs_policy, has_run = not report.is_ok(Check.POLICY), bool(report.results)
    has_other_policy = needs_policy and token is not None and not token.policy
    streams = settings.source.streams and (not report.version or has_event_stream(report.version))
    mounts, seeds = report.mounts or DEFAULT_MOUNTS, settings.seeds
    return SetupPlan(
        account=account or DEFAULT_ACCOUNT,
        crds=has_run and not report.is_ok(Check.CRDS) and report.is_ok(Check.KUBERNETES),
        rules=() if account and report.is_ok(Check.PERMISSION) else _rules(settings, account),
        namespaces=settings.namespaces,
        policy=policy(settings.seedable_paths, mounts, seeds=seeds, streams=streams) if needs_policy else "",
        policy_name=(token.policy if token else "") or POLICY_NAME,
        auth=auth,
        login=not report.is_ok(Check.LOGIN) or (has_other_policy and not auth.issues),
        grants_by_role=has_other_policy,
        audience="" if account and not auth.jwt_file else AUDIENCE,
        audit="" if report.is_ok(Check.SOURCE) else enable_device(settings),
        device_fixes=[one.fix for one in report.results if (one.check, one.status) == (Check.AUDIT, Status.FAILED)],
        namespace_to_seed=report.unseeded_namespace or ("" if has_run else "NAMESPACE"),
        address=settings.vault_addr if has_run else "",
        vault_namespace=clean_namespace(settings.vault_namespace),
    )


def _rules(settings: Settings, account: ServiceAccount | None) -> tuple[RbacRule, ...]:
    """All rules; a person's shell lacks the settings of the pod, so that those of deploy/base replace them."""
    writes = not settings.dry_run
    rules = required_rules(writes=writes, takes_condition=True)  # another version of external-secrets may take it
    lease = settings.lease if account else settings.lease or DEFAULT_LEASE
    return (*rules, *leader_rules(lease if writes else "", labels=settings.labels_leader if account else True))


def script(plan: SetupPlan) -> str:
    """The commands; a comment if nothing is missing."""
    parts = [part for part in _parts(plan) if part]
    return "\n\n".join([_HEAD, *(["set -eu", *parts] if parts else [_NOTHING])]) + "\n"


def _parts(plan: SetupPlan) -> Iterator[str]:
    yield _CRDS if plan.crds else ""
    if plan.rules:
        yield "# In Kubernetes: the ServiceAccount and its permissions\n" + _apply(_manifests(plan))
    if plan.policy or plan.login:
        yield _vault_environment(plan)
    if plan.policy:
        name = shlex.quote(plan.policy_name)
        write = f"vault policy write {name} - <<'{END}'\n{plan.policy.rstrip()}\n{END}"
        yield f"# In Vault: the policy, which can't read a value\n{write}"
    if plan.login:
        yield from _login(plan)
    elif plan.grants_by_role:
        yield _GRANT.format(grant_policy(plan.auth, plan.policy_name))
    yield _AUDIT.format("\n#   ".join(plan.audit.splitlines())) if plan.audit else ""
    yield _DEVICES.format("\n".join(f"#   {command}" for command in plan.device_fixes)) if plan.device_fixes else ""
    if plan.namespace_to_seed:
        yield (
            f"# Enable seeding in each namespace that needs it, such as:\n"
            f"#   kubectl annotate namespace {plan.namespace_to_seed} {annotations.SEED}=true"
        )


def _vault_environment(plan: SetupPlan) -> str:
    """Defaults of VAULT_ADDR and VAULT_NAMESPACE: an admin may use another address."""
    given = {"VAULT_ADDR": plan.address, "VAULT_NAMESPACE": plan.vault_namespace}
    lines = [f': "${{{name}:={_in_quotes(value)}}}"; export {name}' for name, value in given.items() if value]
    return "\n".join(lines)


def _in_quotes(text: str) -> str:
    """Quoted for a shell, within double quotes and braces."""
    return "".join(f"\\{char}" if char in '\\"$`}' else char for char in text)


def _login(plan: SetupPlan) -> Iterator[str]:
    auth = plan.auth
    if auth.auth is Auth.TOKEN:
        yield _token(plan)
        return
    mount = auth.at.removeprefix("auth/")
    at, role_at = shlex.quote(auth.at), shlex.quote(auth.role_at)
    yield _ENABLE.format(
        found=shlex.quote(f"{json.dumps(f'{mount}/')}: {{"),
        mount=shlex.quote(mount),
        method=auth.auth.value,
        configure=_REVIEWER.format(at=at) if auth.auth is Auth.KUBERNETES else "",
    )
    if auth.auth is Auth.JWT:
        yield _KEYS.format(at=at)
    fields = (_bounds(plan), [f"token_policies={plan.policy_name}", "token_ttl=1h"])
    write = " \\\n  ".join([f"vault write {role_at}", *(shlex.join(some) for some in fields if some)])
    yield f"# the role; these values replace those of an existing one\n{write}"
    if auth.auth is Auth.APPROLE:
        yield _ids(plan)


def _bounds(plan: SetupPlan) -> list[str]:
    """Options of the role that limit who may log in."""
    account, audience = plan.account, plan.audience
    if plan.auth.auth is Auth.KUBERNETES:
        names = [f"bound_service_account_names={account.name}", f"bound_service_account_namespaces={account.namespace}"]
        return [*([f"audience={audience}"] if audience else []), *names]
    if plan.auth.auth is Auth.JWT:
        bound = [f"bound_audiences={audience}", f"bound_subject={account.user}"]
        return ["role_type=jwt", "user_claim=sub", *bound]
    return []


def _token(plan: SetupPlan) -> str:
    credentials = {"token": plan.auth.token_file}
    create = f"token=$({create_token(plan.policy_name)} -field=token)"
    comment = f"# a token with this policy, renewable without end, to {_places(credentials, TOKEN_SECRET)}"
    return "\n".join([comment, create, *_store(plan, TOKEN_SECRET, credentials)])


def _ids(plan: SetupPlan) -> str:
    auth = plan.auth
    credentials = {"role_id": auth.role_id_file, "secret_id": auth.secret_id_file}
    if _is_local(auth.secret_id_file):
        file = shlex.quote(auth.secret_id_file)
        look = f"secret_id=\nif [ -f {file} ]; then secret_id=$(cat {file}); fi"
    else:
        get = f"kubectl -n {plan.account.namespace} get secret {APPROLE_SECRET} --ignore-not-found"
        look = f"kept=$({get} -o 'jsonpath={{.data.secret-id}}')\nsecret_id=$(printf %s \"$kept\" | base64 -d)"
    ids = _IDS.format(place=_places(credentials, APPROLE_SECRET), at=shlex.quote(auth.role_at), look=look)
    return "\n".join([ids, *_store(plan, APPROLE_SECRET, credentials)])


def _is_local(file: str) -> bool:
    """Whether it is a file of this machine: not mounted from a Kubernetes Secret, and no environment variable."""
    return bool(file) and not file.startswith(MOUNTED)


def _places(credentials: Mapping[str, str], secret: str) -> str:
    files = list(filter(_is_local, credentials.values()))
    return " and ".join(files if len(files) == len(credentials) else [*files, f"the Secret {secret}"])


def _store(plan: SetupPlan, secret: str, credentials: Mapping[str, str]) -> list[str]:
    """The commands that store each variable in its file or in the Secret; never as an argument, which others see."""
    lines, data = [], []
    for variable, file in credentials.items():
        if _is_local(file):
            lines.append(f'(umask 077; printf %s "${variable}" >{shlex.quote(file)})')
        else:
            key = variable.replace("_", "-")
            data.append(f"  {key}: $(printf %s \"${variable}\" | base64 | tr -d '\\n')")
    if data:
        lines.append(_APPLY.format(end=END, data="\n".join(data), name=secret, namespace=plan.account.namespace))
    return lines


def _apply(manifests: Sequence[Manifest]) -> str:
    text = yaml.safe_dump_all(manifests, sort_keys=False, default_flow_style=None, width=1000)
    return f"kubectl apply --server-side --force-conflicts -f - <<'{END}'\n{text}{END}"


def _manifests(plan: SetupPlan) -> list[Manifest]:
    """The manifests of deploy/base, or of deploy/namespaced, without the Deployment."""
    account, rules = plan.account, [rule for rule in plan.rules if not rule.namespace]
    found: list[Manifest] = [
        _object("v1", "Namespace", {"name": account.namespace}),
        _object("v1", "ServiceAccount", _named(account.name, account.namespace), automountServiceAccountToken=False),
        _role(_named(ROLE), rules),
    ]
    own = [rule for rule in plan.rules if rule.namespace]
    own_namespaces = dict.fromkeys(rule.namespace for rule in own)
    for namespace in own_namespaces:
        metadata = _named(ROLE, namespace)
        found += [_role(metadata, own), _binding("Role", ROLE, account, metadata)]
    if not plan.namespaces:
        return [*found, _binding("ClusterRole", ROLE, account, _named(ROLE))]
    metadata = _named(f"{ROLE}-cluster")
    outside = [rule for rule in rules if not rule.in_namespaces]
    found += [_role(metadata, outside, plan.namespaces), _binding("ClusterRole", metadata["name"], account, metadata)]
    # in its own namespace the binding of the Role has the name already
    names = [(f"{ROLE}-watched" if namespace in own_namespaces else ROLE, namespace) for namespace in plan.namespaces]
    return found + [_binding("ClusterRole", ROLE, account, _named(*name)) for name in names]


def _named(name: str, namespace: str = "") -> dict[str, str]:
    return {"name": name} | ({"namespace": namespace} if namespace else {})


def _role(metadata: Mapping[str, str], rules: Sequence[RbacRule], namespaces: Sequence[str] = ()) -> Manifest:
    """A Role in the namespace of the metadata, a ClusterRole without one."""
    kind = "Role" if "namespace" in metadata else "ClusterRole"
    return _object(f"{RBAC}/v1", kind, metadata, rules=[_rule(rule, namespaces) for rule in rules])


def _rule(rule: RbacRule, namespaces: Sequence[str]) -> Manifest:
    found: Manifest = {"apiGroups": [rule.group], "resources": [rule.resource], "verbs": list(rule.verbs)}
    names = [rule.name] if rule.name else list(namespaces) if rule.resource == NAMESPACES else []
    return found | ({"resourceNames": names} if names else {})


def _binding(kind: str, role: str, account: ServiceAccount, metadata: Mapping[str, str]) -> Manifest:
    """A RoleBinding in the namespace of the metadata, a ClusterRoleBinding without one."""
    return _object(
        f"{RBAC}/v1",
        "RoleBinding" if "namespace" in metadata else "ClusterRoleBinding",
        metadata,
        roleRef={"apiGroup": RBAC, "kind": kind, "name": role},
        subjects=[{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
    )


def _object(api_version: str, kind: str, metadata: Mapping[str, object], **more: object) -> Manifest:
    return {"apiVersion": api_version, "kind": kind, "metadata": dict(metadata), **more}
