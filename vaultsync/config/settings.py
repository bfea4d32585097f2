"""Every setting, from the environment alone. `vaultsync run --help` prints the names, defaults and texts of this."""

from collections.abc import Mapping
from typing import Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vaultsync.config import formats
from vaultsync.config.auth import SERVICE_ACCOUNT_TOKEN, Auth, AuthConfig
from vaultsync.config.change_source import AuditAccess, ChangeSource, Transport
from vaultsync.config.connection import TlsFiles
from vaultsync.config.selection import Selection
from vaultsync.core import annotations
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.seed_paths import DEFAULT as DEFAULT_SEED_PATHS
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.generation.rule_set import NO_RULES

PREFIX: Final = "VAULTSYNC_"
LOGIN: Final[Mapping[str, tuple[Auth, ...]]] = {
    "vault_token_file": (Auth.TOKEN,),
    "vault_token": (Auth.TOKEN,),
    "vault_auth_mount": (Auth.KUBERNETES, Auth.APPROLE, Auth.JWT),
    "vault_role": (Auth.KUBERNETES, Auth.JWT),
    "vault_jwt_file": (Auth.KUBERNETES, Auth.JWT),
    "vault_role_id_file": (Auth.APPROLE,),
    "vault_role_id": (Auth.APPROLE,),
    "vault_secret_id_file": (Auth.APPROLE,),
    "vault_secret_id": (Auth.APPROLE,),
}
"""The auth methods that use a setting."""
REMOVED: Final[Mapping[str, str]] = {
    "VAULTSYNC_POD_IP": "set VAULTSYNC_POD_NAME to metadata.name, and grant `patch` on pods, as deploy/base does: the "
    "leader labels its pod, and the Service of the audit port selects that label",
}
"""Variables of earlier versions, and their replacements."""
_NEEDED: Final[Mapping[Auth, tuple[str, ...]]] = {
    Auth.TOKEN: ("vault_token",),
    Auth.KUBERNETES: ("vault_role",),
    Auth.APPROLE: ("vault_role_id",),
    Auth.JWT: ("vault_role", "vault_jwt_file"),
}
_FILES: Final[Mapping[str, str]] = {
    "vault_token": "vault_token_file",
    "vault_role_id": "vault_role_id_file",
    "vault_secret_id": "vault_secret_id_file",
}
"""The setting of the file that may contain the value instead."""


class Settings(BaseSettings):
    """vaultsync's configuration."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, frozen=True
    )

    vault_addr: formats.Address = Field(
        validation_alias="VAULT_ADDR", description="Vault's address, such as https://vault.vault:8200 (required)"
    )
    vault_auth: Auth = Field(
        Auth.TOKEN, description="how to log in to Vault: token, kubernetes (a ServiceAccount's token), approle, or jwt"
    )
    vault_token_file: str = Field(
        "",
        validation_alias="VAULT_TOKEN_FILE",
        validate_default=True,
        description="file with the Vault token in place of VAULT_TOKEN, such as Vault agent's sink or a mounted "
        "Secret; read again when it changes",
    )
    vault_token: formats.Secret = Field(
        None,
        validation_alias="VAULT_TOKEN",
        validate_default=True,
        description="Vault token with the policy of deploy/vault/policy.hcl (this or the file is required with token)",
    )
    vault_auth_mount: formats.AuthMount = Field(
        "", description="where the auth method is mounted, without auth/; default: its name, such as kubernetes"
    )
    vault_role: str = Field(
        "", validate_default=True, description="role in Vault to log in with (required with kubernetes and jwt)"
    )
    vault_jwt_file: str = Field(
        "",
        validate_default=True,
        description="file with the JWT to log in with, read at each login (required with jwt); default with "
        "kubernetes: " + SERVICE_ACCOUNT_TOKEN,
    )
    vault_role_id_file: str = Field("", description="file with the role ID, in place of VAULTSYNC_VAULT_ROLE_ID")
    vault_role_id: formats.Secret = Field(
        None, validate_default=True, description="role ID (this or the file is required with approle)"
    )
    vault_secret_id_file: str = Field(
        "", description="file with the secret ID, in place of VAULTSYNC_VAULT_SECRET_ID, read at each login"
    )
    vault_secret_id: formats.Secret = Field(None, description="secret ID, where the role binds one")
    vault_cacert: str | None = Field(
        None,
        validation_alias="VAULT_CACERT",
        description="PEM file of the CA that signed Vault's certificate; default: the system's CAs; this "
        "file and the next two are read again when they change",
    )
    vault_client_cert: str | None = Field(
        None,
        validation_alias="VAULT_CLIENT_CERT",
        description="PEM file with the client certificate for Vault; default: none",
    )
    vault_client_key: str | None = Field(
        None,
        validation_alias="VAULT_CLIENT_KEY",
        validate_default=True,
        description="PEM file with its key; default: in the same file",
    )
    vault_tls_server_name: str | None = Field(
        None,
        validation_alias="VAULT_TLS_SERVER_NAME",
        description="the name that Vault's certificate must have, also sent as SNI; default: the host of VAULT_ADDR",
    )
    vault_namespace: str = Field(
        "",
        validation_alias="VAULT_NAMESPACE",
        description="Vault namespace (Enterprise) of the token and of the event subscription",
    )
    kubeconfig: str | None = Field(
        None,
        validation_alias="KUBECONFIG",
        description="kubeconfig file; default: the pod's ServiceAccount, else ~/.kube/config",
    )
    seed: SeedMode = Field(
        SeedMode.ANNOTATED,
        description='which ExternalSecrets are seeded: annotated (vaultsync.io/seed: "true"), all, or off',
    )
    dry_run: bool = Field(
        False,
        description="true: log what would be done (`would seed`, `would force-sync`), and write nothing to Kubernetes "
        "or Vault, except that the token is renewed",
    )
    generate: formats.GenerationRules = Field(
        NO_RULES,
        description="rules for values of ExternalSecrets without their own, as in the annotation "
        'vaultsync.io/generate: {password: {format: password, length: 40}}, with "*" for the rest; '
        "default: 32 random bytes in hex",
    )
    seed_paths: formats.Globs = Field(
        DEFAULT_SEED_PATHS,
        description="where values may be created: comma-separated globs of paths without the API's data/. A first * is "
        "the whole mount, another * one segment or a part of one, ** any number of segments; {namespace} is the name "
        "of the Kubernetes namespace, {label:team} the value of its label; team-a:*/{namespace}/** is for the Vault "
        "namespace team-a, a glob without a colon for VAULT_NAMESPACE",
    )
    rotate_after: formats.RotationAge = Field(
        0.0,
        description="the age at which vaultsync rotates the values that it created, such as 30d (up to a tenth later, "
        f"so that not all change at once); the annotation {annotations.ROTATE_AFTER} takes precedence; 0: never",
    )
    seed_budget: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="maximum new paths per hour and Kubernetes namespace, also all at once; 0: no limit",
    )
    heal_limit: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="how many lost paths of a mount, which existed and are missing though Vault reports no deletion, "
        "are created again in ten minutes; beyond that vaultsync creates none there until a person approves it; 0: no "
        "limit; default: 10, or 5 % of the mount's known paths if that is more",
    )
    cluster: formats.ClusterName = Field(
        "",
        description="this cluster's name in the ownership metadata of created paths, as several clusters may share a "
        "Vault; default: the UID of the Namespace kube-system",
    )
    store_servers: formats.Addresses = Field(
        (),
        description="other addresses of this same Vault, comma-separated, that SecretStores may have and that Vault "
        "may redirect to",
    )
    namespaces: formats.NamespaceNames = Field(
        (), description="the only namespaces that are watched, comma-separated, such as shop,shop-test; default: all"
    )
    namespace_selector: formats.LabelSelector = Field(
        "",
        description="label selector of the watched namespaces, such as vaultsync=on,env!=prod (with "
        "VAULTSYNC_NAMESPACES both must match); default: all",
    )
    selector: formats.LabelSelector = Field(
        "", description="label selector of the watched ExternalSecrets, such as tier in (web,api); default: all"
    )
    resync: formats.Seconds = Field(
        3600.0, ge=10, le=30 * 86400, description="interval of the full resync (jittered by 10 %), such as 30m"
    )
    vault_timeout: formats.Seconds = Field(10.0, gt=0, le=120, description="timeout of a request to Vault")
    kube_timeout: formats.Seconds = Field(20.0, gt=0, le=120, description="timeout of a request to the API server")
    source: ChangeSource = Field(
        ChangeSource.AUTO,
        description="what reports changes in Vault: events (its event stream), audit (an audit device), poll, or auto: "
        "the first of these that works at the time. With any but auto no other source takes over; if the audit "
        "device then does not deliver, vaultsync reports it and resyncs each VAULTSYNC_CANARY_INTERVAL",
    )
    audit_listen: formats.AuditListen = Field(
        "",
        description="address to listen on for a socket audit device of Vault, such as udp:0.0.0.0:8220, "
        "unix:/run/vaultsync/audit, or on one machine tcp:127.0.0.1:8220: it reports all changes, also the deletions "
        "that the event stream sends to root tokens alone. From another machine use udp, as Vault waits for an "
        "unreachable TCP receiver; default: none",
    )
    audit_allow: formats.Networks = Field(
        (), description="addresses that may send audit entries, comma-separated, such as 10.0.0.0/8; default: all"
    )
    audit_tls_cert: str = Field(
        "", description="PEM file with the certificate of the TCP listener for audit devices; default: no TLS"
    )
    audit_tls_key: str = Field("", description="PEM file with its key; default: in the same file")
    audit_file: str = Field(
        "", description="the file of a file audit device of Vault, used as a socket audit device; default: none"
    )
    canary_interval: formats.Seconds = Field(
        300.0,
        ge=1,
        le=86400,
        description="interval of a request whose audit entry must arrive through the audit device, if there is one; if "
        "it does not, the next source takes over",
    )
    poll_interval: formats.Seconds = Field(
        60.0, ge=1, le=86400, description="interval at which each path is read if no other source works"
    )
    poll_rate: int = Field(200, ge=1, le=10_000, description="maximum requests per second of the poll to Vault")
    lease: formats.LeaseName = Field(
        "",
        description="NAMESPACE/NAME of the Lease by which one of several replicas is elected leader, such as "
        "vaultsync/vaultsync; default: no election. With VAULTSYNC_DRY_RUN there is none either",
    )
    pod_name: formats.PodName = Field(
        "",
        description="this pod's name (metadata.name, by the downward API): the leader sets the label "
        f'{annotations.LEADER_LABEL}: "true" on its pod, in the namespace of VAULTSYNC_LEASE, for the Service of the '
        "audit port; default: no label",
    )
    health_listen: formats.ListenAddress = Field(
        "", description="address to listen on for /livez, /readyz and /metrics, such as 0.0.0.0:8080; default: none"
    )
    log_format: str = Field(
        "auto", pattern="^(auto|text|json)$", description="text, json, or auto: text on a terminal, json elsewhere"
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.source is ChangeSource.AUDIT and not (self.audit_listen or self.audit_file):
            raise ValueError("VAULTSYNC_SOURCE=audit needs VAULTSYNC_AUDIT_LISTEN or VAULTSYNC_AUDIT_FILE")
        if self.audit_tls_key and not self.audit_tls_cert:
            raise ValueError("VAULTSYNC_AUDIT_TLS_KEY needs VAULTSYNC_AUDIT_TLS_CERT")
        address = self.audit.address
        if self.audit_tls_cert and address is not None and address.transport is Transport.UDP:
            raise ValueError("VAULTSYNC_AUDIT_TLS_CERT is for TCP, but VAULTSYNC_AUDIT_LISTEN is a UDP address")
        return self

    @field_validator(*LOGIN)
    @classmethod
    def _is_for_login(cls, value: object, info: ValidationInfo) -> object:
        """Require the settings that the auth method needs, and reject those that it does not use."""
        auth, name = info.data.get("vault_auth"), str(info.field_name)
        if auth is None:
            return value  # VAULTSYNC_VAULT_AUTH is invalid itself
        file = _FILES.get(name, "")
        if value and auth not in LOGIN[name]:
            raise ValueError(f"is set, but VAULTSYNC_VAULT_AUTH is {auth.value}")
        if value and info.data.get(file):
            raise ValueError(f"is set beside {variable(file)}: one of them is enough")
        if not value and name in _NEEDED[auth] and not info.data.get(file):
            raise ValueError(f"is not set, nor {variable(file)}" if file else "is not set")
        return value

    @field_validator("vault_cacert")
    @classmethod
    def _is_file(cls, value: str | None) -> str | None:
        try:
            TlsFiles(value).load()
        except OSError as error:
            raise ValueError("must be a PEM file that can be read") from error
        return value

    @field_validator("vault_client_key")
    @classmethod
    def _is_pair(cls, value: str | None, info: ValidationInfo) -> str | None:
        certificate = info.data.get("vault_client_cert")
        if certificate is None:
            if value is not None:
                raise ValueError("needs VAULT_CLIENT_CERT")
            return None
        try:
            TlsFiles(None, certificate, value).load()
        except (OSError, ValueError) as error:
            raise ValueError("and VAULT_CLIENT_CERT must be PEM files that can be read and belong together") from error
        return value

    # -- parts of the settings, as other modules take them

    @property
    def auth(self) -> AuthConfig:
        """How to log in to Vault."""
        return AuthConfig(
            auth=self.vault_auth,
            mount=self.vault_auth_mount,
            role=self.vault_role,
            token_file=self.vault_token_file,
            jwt_file=self.vault_jwt_file,
            role_id_file=self.vault_role_id_file,
            secret_id_file=self.vault_secret_id_file,
            token=self.vault_token,
            role_id=self.vault_role_id,
            secret_id=self.vault_secret_id,
        )

    @property
    def tls(self) -> TlsFiles:
        """The TLS files for Vault."""
        return TlsFiles(self.vault_cacert, self.vault_client_cert, self.vault_client_key, self.vault_tls_server_name)

    @property
    def servers(self) -> tuple[str, ...]:
        """All addresses of this Vault."""
        return (self.vault_addr, *self.store_servers)

    @property
    def audit(self) -> AuditAccess:
        """Where audit entries arrive, and who may send them."""
        return AuditAccess(
            self.audit_listen, self.audit_file, self.audit_allow, self.audit_tls_cert, self.audit_tls_key
        )

    @property
    def seedable_paths(self) -> SeedPaths:
        """Where values may be created."""
        return SeedPaths.parse(self.seed_paths, self.vault_namespace)

    @property
    def selection(self) -> Selection:
        """The namespaces and ExternalSecrets that are watched."""
        return Selection(self.namespaces, self.namespace_selector, self.selector)

    @property
    def seeds(self) -> bool:
        """Whether values are created at all."""
        return self.seed is not SeedMode.OFF and not self.dry_run

    @property
    def election_lease(self) -> str:
        """NAMESPACE/NAME of the Lease by which one replica leads; "" without an election, as in a dry run."""
        return "" if self.dry_run else self.lease

    @property
    def labels_leader(self) -> bool:
        """Whether the leader labels its pod, as a Service selects the pod of the audit port by that label."""
        _, _, port = self.audit_listen.rpartition(":")
        return bool(self.election_lease and self.pod_name and port.isdecimal())


def variable(name: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + name.upper()


def removed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The removed variables that are set, with what to do. Other unknown variables are ignored."""
    return {name: fix for name, fix in REMOVED.items() if environment.get(name)}


def describe_variables() -> str:
    """A paragraph for each setting: variable, description, default."""
    lines = []
    for name, field in Settings.model_fields.items():
        has_default = not field.is_required() and field.default not in (None, "", (), NO_RULES)
        default = f" [default: {_shown(field.default)}]" if has_default else ""
        lines.append(f"  {variable(name)}\n      {field.description}{default}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value == 0:
        return "0"
    if isinstance(value, float):
        return f"{value / 3600:g}h" if value % 3600 == 0 else f"{value:g}s"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(getattr(value, "value", value))
