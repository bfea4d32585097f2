"""The shell commands of `vaultsync check --print-setup`, by which an admin of Kubernetes and Vault sets vaultsync up.

Pure text, to be read before it is run, and to be run again without harm. Holds nothing secret: the shell makes it, and
puts it where the settings look for it.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from vaultsync.commands.check.audit_devices import FILE
from vaultsync.commands.check.rbac import NAMESPACES, Right
from vaultsync.config.auth import MOUNTED, Auth, AuthConfig, make_token
from vaultsync.core import annotations

TOKEN_HOLDER: Final = "vaultsync-vault-token"  # noqa: S105 — a name
"""The Secret where the Deployment of deploy/token looks for the token."""
APPROLE_HOLDER: Final = "vaultsync-vault-approle"
"""The Secret where the Deployment of the Helm chart looks for role ID and secret ID."""
AUDIENCE: Final = "vault"
"""Of the token that Kubernetes makes for Vault in deploy/base."""
NAMESPACE: Final = "vaultsync"
ROLE: Final = "vaultsync"
"""The name of ClusterRole, Role and bindings."""
RBAC: Final = "rbac.authorization.k8s.io"
END: Final = "EOF"
"""No line of YAML or of a policy is that."""

_HEAD: Final = """\
# What vaultsync needs, by `vaultsync check --print-setup`. Read it, then run it by sh, as an admin of both Kubernetes
# and Vault (KUBECONFIG, VAULT_TOKEN). It may be run again; nothing is deleted."""
_NOTHING: Final = "# Nothing is missing."
_AUDIT: Final = f"""\
# Once vaultsync runs: have Vault tell it of each change, by a device that can't block Vault. Vault refuses a request
# that none of its audit devices can log: have another one beside it, such as a file.
#   {FILE}
#   {{}}"""
_DEVICES: Final = """\
# An audit device can block Vault. OpenBao takes this by its configuration, unless that allows it by the API:
{}"""
_ENABLE: Final = """\
# In Vault: the auth method. One that is there stays as it is, with its configuration
methods=$(vault auth list -format=json)
case $methods in
*{found}*) ;;
*)
  vault auth enable -path={mount} {method}{configure}
  ;;
esac"""
_REVIEWER: Final = """
  # of a Vault in the same cluster; for others: README, Log in to Vault. If this fails, do it by hand before the rest
  vault write {at}/config kubernetes_host=https://kubernetes.default.svc"""
_KEYS: Final = """\
# Who signs the tokens can't be known from here. Once, as an admin, have Vault take the public key of the API server's
# --service-account-signing-key-file, or find it by jwks_url or oidc_discovery_url:
#   vault write {at}/config jwt_validation_pubkeys=@service-account.pub"""
_IDS: Final = """\
# its ids, to {place}. A secret ID that the role knows stays
role_id=$(vault read -field=role_id {at}/role-id)
{look}
known=
if [ -n "$secret_id" ]; then
  known=$(printf %s "$secret_id" | vault write -format=json {at}/secret-id/lookup secret_id=-)
fi
if [ -z "$known" ]; then
  secret_id=$(vault write -f -field=secret_id {at}/secret-id)
fi"""
_HOLD: Final = """\
kubectl apply --server-side --force-conflicts -f - <<{end}
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
data:
{data}
{end}"""
_GRANT: Final = """\
# The token has other policies. Where the role is vaultsync's alone, have it give this one in their place:
#   {}"""
_CRDS: Final = "# external-secrets is missing: https://external-secrets.io/latest/introduction/getting-started/"


@dataclass(frozen=True, slots=True)
class Account:
    """A ServiceAccount."""

    namespace: str
    name: str

    @classmethod
    def of(cls, user: str) -> "Account | None":
        """By the name under which the API server knows it, None for anybody else."""
        kind, _, rest = user.partition("system:serviceaccount:")
        namespace, colon, name = rest.partition(":")
        return cls(namespace, name) if colon and not kind else None

    @property
    def user(self) -> str:
        """That name."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"


OWN: Final = Account(NAMESPACE, "vaultsync")
"""The one of deploy/base."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What is to be set up.

    Attributes:
        crds: external-secrets.
        rights: those in Kubernetes, of its own namespace too; none if they are there.
        account: who is to have them.
        namespaces: the only ones that are watched, by name; none: all are.
        policy: Vault's, in HCL; "" if it is there.
        policy_name: its name.
        way: how it logs in.
        login: whether it can't, and what it takes is to be made.
        is_other: it can, and gets a token of other policies by a role.
        audience: of the token of the ServiceAccount that it logs in with, "" where that is the API server's own.
        audit: the command that enables an audit device, "" where there is something that tells of changes.
        devices: the commands that mend an audit device which can block Vault.
        seeded: a namespace that could ask to be seeded, "" if some do.
        address, vault_namespace: VAULT_ADDR and VAULT_NAMESPACE, "" where they are not set.
    """

    account: Account = OWN
    crds: bool = False
    rights: Sequence[Right] = ()
    namespaces: Sequence[str] = ()
    policy: str = ""
    policy_name: str = "vaultsync"
    way: AuthConfig = field(default_factory=AuthConfig)
    login: bool = False
    is_other: bool = False
    audience: str = AUDIENCE
    audit: str = ""
    devices: Sequence[str] = ()
    seeded: str = ""
    address: str = ""
    vault_namespace: str = ""


def script(missing: Missing) -> str:
    """The commands."""
    parts = [part for part in _parts(missing) if part]
    return "\n\n".join([_HEAD, *(["set -eu", *parts] if parts else [_NOTHING])]) + "\n"


def _parts(missing: Missing) -> Iterator[str]:
    yield _CRDS if missing.crds else ""
    if missing.rights:
        yield "# In Kubernetes: who vaultsync is, and its rights\n" + _apply(_manifests(missing))
    if missing.policy or missing.login:
        yield _to_vault(missing)
    if missing.policy:
        name = shlex.quote(missing.policy_name)
        yield f"# In Vault: the policy, which can't read a value\nvault policy write {name} - <<'{END}'\n" + (
            f"{missing.policy.rstrip()}\n{END}"
        )
    if missing.login:
        yield from _login(missing)
    elif missing.is_other:
        yield _GRANT.format(missing.way.grant(missing.policy_name))
    yield _AUDIT.format("\n#   ".join(missing.audit.splitlines())) if missing.audit else ""
    yield _DEVICES.format("\n".join(f"#   {command}" for command in missing.devices)) if missing.devices else ""
    if missing.seeded:
        yield (
            f"# Ask for it, in each namespace that is to be seeded, such as:\n"
            f"#   kubectl annotate namespace {missing.seeded} {annotations.SEED}=true"
        )


def _to_vault(missing: Missing) -> str:
    """Which Vault it is, unless the shell says otherwise: an admin may reach it by another address."""
    given = {"VAULT_ADDR": missing.address, "VAULT_NAMESPACE": missing.vault_namespace}
    lines = [f': "${{{name}:={_in_quotes(value)}}}"; export {name}' for name, value in given.items() if value]
    return "\n".join(lines)


def _in_quotes(text: str) -> str:
    """Within double quotes and braces of a shell."""
    return "".join(f"\\{char}" if char in '\\"$`}' else char for char in text)


def _login(missing: Missing) -> Iterator[str]:
    way = missing.way
    if way.auth is Auth.TOKEN:
        yield _token(missing)
        return
    mount = way.at.removeprefix("auth/")
    at, role_at = shlex.quote(way.at), shlex.quote(way.role_at)
    yield _ENABLE.format(
        found=shlex.quote(f"{json.dumps(f'{mount}/')}: {{"),
        mount=shlex.quote(mount),
        method=way.auth.value,
        configure=_REVIEWER.format(at=at) if way.auth is Auth.KUBERNETES else "",
    )
    if way.auth is Auth.JWT:
        yield _KEYS.format(at=at)
    fields = (_bounds(missing), [f"token_policies={missing.policy_name}", "token_ttl=1h"])
    write = " \\\n  ".join([f"vault write {role_at}", *(shlex.join(some) for some in fields if some)])
    yield f"# the role; one of that name gets these values\n{write}"
    if way.auth is Auth.APPROLE:
        yield _ids(missing)


def _bounds(missing: Missing) -> list[str]:
    """Who may log in by the role."""
    account, audience = missing.account, missing.audience
    if missing.way.auth is Auth.KUBERNETES:
        names = [f"bound_service_account_names={account.name}", f"bound_service_account_namespaces={account.namespace}"]
        return [*([f"audience={audience}"] if audience else []), *names]
    if missing.way.auth is Auth.JWT:
        bound = [f"bound_audiences={audience}", f"bound_subject={account.user}"]
        return ["role_type=jwt", "user_claim=sub", *bound]
    return []


def _token(missing: Missing) -> str:
    kept = [_Kept("token", "token", missing.way.token_file)]
    return "\n".join(
        [
            f"# a token with it that vaultsync can renew for ever, to {_place(kept, TOKEN_HOLDER)}",
            f"token=$({make_token(missing.policy_name)} -field=token)",
            *_put(missing, TOKEN_HOLDER, kept),
        ]
    )


def _ids(missing: Missing) -> str:
    way, name = missing.way, "secret-id"
    kept = [_Kept("role-id", "role_id", way.role_id_file), _Kept(name, "secret_id", way.secret_id_file)]
    if kept[1].is_here:
        file = shlex.quote(way.secret_id_file)
        look = f"secret_id=\nif [ -f {file} ]; then secret_id=$(cat {file}); fi"
    else:
        get = f"kubectl -n {missing.account.namespace} get secret {APPROLE_HOLDER} --ignore-not-found"
        look = f"kept=$({get} -o 'jsonpath={{.data.{name}}}')\nsecret_id=$(printf %s \"$kept\" | base64 -d)"
    ids = _IDS.format(place=_place(kept, APPROLE_HOLDER), at=shlex.quote(way.role_at), look=look)
    return "\n".join([ids, *_put(missing, APPROLE_HOLDER, kept)])


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is secret, and where the settings look for it.

    Attributes:
        key: in a Secret.
        variable: the shell's.
        file: "" where a variable of the environment has it.
    """

    key: str
    variable: str
    file: str

    @property
    def is_here(self) -> bool:
        """Whether it is in a file of the machine, and no Secret's."""
        return bool(self.file) and not self.file.startswith(MOUNTED)


def _place(kept: Sequence[_Kept], holder: str) -> str:
    """Where all of it goes, in words."""
    files = [one.file for one in kept if one.is_here]
    return " and ".join(files if len(files) == len(kept) else [*files, f"the Secret {holder}"])


def _put(missing: Missing, holder: str, kept: Sequence[_Kept]) -> list[str]:
    """The commands that write it there: no argument of a command holds it, which others could see."""
    lines = [f'(umask 077; printf %s "${one.variable}" >{shlex.quote(one.file)})' for one in kept if one.is_here]
    coded = [f"  {one.key}: $(printf %s \"${one.variable}\" | base64 | tr -d '\\n')" for one in kept if not one.is_here]
    if coded:
        place = {"name": holder, "namespace": missing.account.namespace}
        lines.append(_HOLD.format(end=END, data="\n".join(coded), **place))
    return lines


def _apply(manifests: Sequence[Mapping[str, Any]]) -> str:
    text = yaml.safe_dump_all(manifests, sort_keys=False, default_flow_style=None, width=1000)
    return f"kubectl apply --server-side --force-conflicts -f - <<'{END}'\n{text}{END}"


def _manifests(missing: Missing) -> list[Mapping[str, Any]]:
    """Those of deploy/base, or of deploy/namespaced, without the Deployment."""
    account, rights = missing.account, [right for right in missing.rights if not right.namespace]
    found: list[Mapping[str, Any]] = [
        _object("v1", "Namespace", {"name": account.namespace}),
        _object("v1", "ServiceAccount", _named(account.name, account.namespace), automountServiceAccountToken=False),
        _role("ClusterRole", _named(ROLE), [_rule(right) for right in rights]),
    ]
    own = [right for right in missing.rights if right.namespace]
    for namespace in dict.fromkeys(right.namespace for right in own):
        metadata = _named(ROLE, namespace)
        found += [_role("Role", metadata, [_rule(right) for right in own]), _binding("Role", ROLE, account, metadata)]
    if not missing.namespaces:
        return [*found, _binding("ClusterRole", ROLE, account, _named(ROLE))]
    outside = [_rule(right, missing.namespaces) for right in rights if not right.in_namespaces]
    metadata = _named(f"{ROLE}-cluster")
    found += [_role("ClusterRole", metadata, outside), _binding("ClusterRole", metadata["name"], account, metadata)]
    taken = {right.namespace for right in own}  # where the Role has a binding of that name
    places = [_named(f"{ROLE}-watched" if name in taken else ROLE, name) for name in missing.namespaces]
    return found + [_binding("ClusterRole", ROLE, account, metadata) for metadata in places]


def _named(name: str, namespace: str = "") -> dict[str, str]:
    return {"name": name} | ({"namespace": namespace} if namespace else {})


def _role(kind: str, metadata: Mapping[str, str], rules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return _object(f"{RBAC}/v1", kind, metadata, rules=list(rules))


def _rule(right: Right, namespaces: Sequence[str] = ()) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
    if right.name:
        rule["resourceNames"] = [right.name]
    if namespaces and right.resource == NAMESPACES:
        rule["resourceNames"] = list(namespaces)
    return rule


def _binding(kind: str, role: str, account: Account, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Of a role of that kind, in the namespace of the metadata or, without one, in all."""
    return _object(
        f"{RBAC}/v1",
        "RoleBinding" if "namespace" in metadata else "ClusterRoleBinding",
        metadata,
        roleRef={"apiGroup": RBAC, "kind": kind, "name": role},
        subjects=[{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
    )


def _object(api_version: str, kind: str, metadata: Mapping[str, Any], **more: object) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": dict(metadata), **more}
