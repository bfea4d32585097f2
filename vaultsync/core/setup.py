"""The shell commands of `vaultsync check --print-setup`, by which an admin of Kubernetes and Vault sets vaultsync up.

Pure text, to be read before it is run, and to be run again without harm. Holds no token: the shell makes one, and puts
it into a Secret.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from vaultsync.core import names
from vaultsync.core.rights import NAMESPACES, Right

HOLDER: Final = "vaultsync-vault-token"
"""Where the Deployment of deploy/token looks for the token."""
NAMESPACE: Final = "vaultsync"
ROLE: Final = "vaultsync"
"""The name of ClusterRole, Role and bindings, and where a setting names no other, of the role in Vault."""
RBAC: Final = "rbac.authorization.k8s.io"
END: Final = "EOF"
"""No line of YAML or of a policy is that."""

_HEAD: Final = """\
# What vaultsync needs, by `vaultsync check --print-setup`. Read it, then run it by sh, as an admin of both Kubernetes
# and Vault (KUBECONFIG, VAULT_TOKEN). It may be run again; nothing is deleted."""
_NOTHING: Final = "# Nothing is missing."
_AUDIT: Final = """\
# Once vaultsync runs: have Vault tell it of deletions. Vault answers no request while none of its audit devices can be
# written to: have another one beside it, such as a file.
#   vault audit enable file file_path=/vault/logs/audit.log
#   vault audit enable -path=vaultsync socket address=vaultsync-audit.vaultsync:8220 socket_type=tcp"""
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
        token: whether one is to be made.
        audit: whether no audit device is known of.
        seeded: a namespace that could ask to be seeded, "" if some do.
        address, vault_namespace: VAULT_ADDR and VAULT_NAMESPACE, "" where they are not set.
    """

    account: Account = OWN
    crds: bool = False
    rights: Sequence[Right] = ()
    namespaces: Sequence[str] = ()
    policy: str = ""
    policy_name: str = "vaultsync"
    token: bool = False
    audit: bool = False
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
    if missing.policy or missing.token:
        yield _to_vault(missing)
    if missing.policy:
        name = shlex.quote(missing.policy_name)
        yield f"# In Vault: the policy, which can't read a value\nvault policy write {name} - <<'{END}'\n" + (
            f"{missing.policy.rstrip()}\n{END}"
        )
    if missing.token:
        yield _token(missing)
    yield _AUDIT if missing.audit else ""
    if missing.seeded:
        yield (
            f"# Ask for it, in each namespace that is to be seeded, such as:\n"
            f"#   kubectl annotate namespace {missing.seeded} {names.SEED}=true"
        )


def _to_vault(missing: Missing) -> str:
    """Which Vault it is, unless the shell says otherwise: an admin may reach it by another address."""
    given = {"VAULT_ADDR": missing.address, "VAULT_NAMESPACE": missing.vault_namespace}
    lines = [f': "${{{name}:={_in_quotes(value)}}}"; export {name}' for name, value in given.items() if value]
    return "\n".join(lines)


def _in_quotes(text: str) -> str:
    """Within double quotes and braces of a shell."""
    return "".join(f"\\{char}" if char in '\\"$`}' else char for char in text)


def _token(missing: Missing) -> str:
    secret = f"kubectl -n {missing.account.namespace} create secret generic {HOLDER} --from-file=token=/dev/stdin"
    return "\n".join(
        [
            "# a token with it that vaultsync can renew for ever, to where deploy/token looks for it",
            f"token=$(vault token create -orphan -policy={shlex.quote(missing.policy_name)} -period=24h -field=token)",
            f'printf %s "$token" | {secret} --dry-run=client -o yaml |',
            "  kubectl apply --server-side --force-conflicts -f -",
        ]
    )


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
