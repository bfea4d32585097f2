"""Parts made from the settings, for `run` and for the commands that look once. Starts nothing."""

from ipaddress import IPv4Address, IPv6Address

from vaultsync.core.decide import Defaults
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.engine.index import Index, server_identity
from vaultsync.kube.selection import Selection
from vaultsync.settings import Settings
from vaultsync.vault.audit_access import AuditAccess
from vaultsync.vault.login import Login
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess


def login(settings: Settings) -> Login:
    """The login to Vault, which nobody has done yet."""
    return Login(
        VaultAccess(
            address=settings.vault_addr,
            namespace=settings.vault_namespace,
            timeout=settings.vault_timeout,
            tls=Tls(
                settings.vault_cacert,
                settings.vault_client_cert,
                settings.vault_client_key,
                settings.vault_tls_server_name,
            ),
            servers=settings.store_servers,
        ),
        settings.login_method(),
    )


def audit_access(settings: Settings) -> AuditAccess:
    """Where and how Vault's audit device is heard."""
    return AuditAccess(
        listen=settings.audit_listen,
        file=settings.audit_file,
        allowed=settings.audit_allow,
        certificate=settings.audit_tls_cert,
        key=settings.audit_tls_key,
    )


def audit_endpoint(settings: Settings) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Address and port to which the leader leads Vault's audit device, None where nothing has to lead it."""
    _, _, port = settings.audit_listen.rpartition(":")
    if not settings.lease or settings.dry_run or settings.pod_ip is None or not port.isdecimal():
        return None
    return settings.pod_ip, int(port)


def index(settings: Settings) -> Index:
    """An index that knows no object yet."""
    servers = frozenset(server_identity(server) for server in (settings.vault_addr, *settings.store_servers))
    return Index(servers, settings.seed, Defaults(settings.generate, settings.rotate_after))


def seed_paths(settings: Settings) -> SeedPaths:
    """Where a namespace may have something created."""
    return SeedPaths.parse(settings.seed_paths, settings.vault_namespace)


def selection(settings: Settings) -> Selection:
    """The namespaces and ExternalSecrets that the settings select."""
    return Selection(settings.namespaces, settings.namespace_selector, settings.selector)
