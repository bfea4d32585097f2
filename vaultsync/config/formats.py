"""The types of the settings: how each is written in its variable, and the message for a wrong one.

No message holds the value, which may be a secret in the wrong variable.
"""

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, InstanceOf, SecretStr
from pydantic_settings import NoDecode

from vaultsync.config.change_source import Network, parse_audit_address
from vaultsync.core.annotation_parser import AGES, is_age
from vaultsync.core.durations import parse_duration
from vaultsync.core.paths import unsafe_reason
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.generation.rule_parser import parse_rules
from vaultsync.generation.rule_set import Rules

_GAP: Final = r"[ \t\r\n]*"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_KEY: Final = rf"(?:(?=[^/]{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_NAME}"
_VALUE: Final = rf"{_GAP}(?:{_NAME})?{_GAP}"
_REQUIREMENT: Final = (
    rf"{_GAP}(?:!{_GAP}{_KEY}"
    rf"|{_KEY}{_GAP}(?:==?|!=){_VALUE}"
    rf"|{_KEY}[ \t\r\n]+(?:in|notin){_GAP}\({_VALUE}(?:,{_VALUE})*\)"
    rf"|{_KEY}){_GAP}"
)
_DNS_SUBDOMAIN: Final = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_LEASE: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_SELECTOR: Final = re.compile(rf"{_REQUIREMENT}(?:,{_REQUIREMENT})*")


def is_label_selector(text: str) -> bool:
    """Whether it is a label selector, equality-based, set-based or mixed.

    As https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/ describes it.
    """
    return _SELECTOR.fullmatch(text) is not None


def is_namespace(name: str) -> bool:
    """Whether a namespace can have this name: a DNS label (RFC 1123)."""
    return len(name) <= 63 and re.fullmatch(_DNS_LABEL, name) is not None


def is_pod_name(text: str) -> bool:
    """Whether a pod can have this name: a DNS subdomain (RFC 1123), which is safe in a URL's path."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def is_lease(text: str) -> bool:
    """Whether it is NAMESPACE/NAME of a Lease, at most 200 characters of name."""
    namespace, _, name = text.partition("/")
    return is_namespace(namespace) and len(name) <= 200 and _LEASE.fullmatch(name) is not None


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """Parse the text of a variable; a default stays as it is."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _namespaces(text: str) -> tuple[str, ...]:
    """Each name once. A list without a name is an error: it would select everything."""
    names = tuple(dict.fromkeys(_split(text)))
    if not names or not all(map(is_namespace, names)):
        raise ValueError("must be names of namespaces, such as shop,shop-test")
    return names


def _networks(text: str) -> tuple[Network, ...]:
    """A list without a network is an error: it would allow all."""
    try:
        networks = tuple(map(ip_network, _split(text)))
    except ValueError:
        networks = ()
    if not networks:
        raise ValueError("must be addresses or networks without host bits, such as 10.0.0.0/8,fd00::1")
    return networks


def _is_url(address: str) -> bool:
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and port != 0 and not re.search(r"\s", address)


def _is_listen_address(text: str) -> bool:
    return re.fullmatch(r"\S*:\d{1,5}", text) is not None and int(text.rpartition(":")[2]) < 65536


def _checked(is_valid: Callable[[str], bool], right: str) -> AfterValidator:
    """Reject a text that is not valid, with the message `must be …`; "" is the default."""

    def check(text: str) -> str:
        if text and not is_valid(text):
            raise ValueError(f"must be {right}")
        return text

    return AfterValidator(check)


def _age(seconds: float) -> float:
    if not is_age(seconds):
        raise ValueError(f"must be {AGES}, or 0 for never")
    return seconds


def _address(address: str) -> str:
    if not _is_url(address):
        raise ValueError("must be an address such as https://vault.vault:8200")
    return address


def _globs(globs: tuple[str, ...]) -> tuple[str, ...]:
    SeedPaths.parse(globs)
    return globs


def _audit_listen(text: str) -> str:
    if text:
        parse_audit_address(text)
    return text


def _auth_mount(text: str) -> str:
    mount = text.strip("/")
    if text and (unsafe_reason(text) or mount.split("/")[0] == "auth"):
        raise ValueError("must be the path of an auth method without auth/, such as kubernetes")
    return mount


def _printable(secret: SecretStr | None) -> SecretStr | None:
    if secret is None:
        return None
    text = secret.get_secret_value().strip(" \t\r\n")  # files and Secrets often end in a newline
    if not text.isascii() or not text.isprintable() or not text:
        raise ValueError("must be printable ASCII")
    return SecretStr(text)


Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[str, ...], NoDecode, _parsed(lambda text: tuple(map(_address, _split(text))))]
Secret = Annotated[SecretStr | None, AfterValidator(_printable)]
AuthMount = Annotated[str, AfterValidator(_auth_mount)]
GenerationRules = Annotated[InstanceOf[Rules], NoDecode, _parsed(parse_rules)]
Globs = Annotated[tuple[str, ...], NoDecode, _parsed(_split), AfterValidator(_globs)]
Seconds = Annotated[float, _parsed(parse_duration)]
RotationAge = Annotated[Seconds, AfterValidator(_age)]
ClusterName = Annotated[
    str, _checked(lambda name: len(name) <= 100 and name.isprintable(), "at most 100 printable characters")
]
NamespaceNames = Annotated[tuple[str, ...], NoDecode, _parsed(_namespaces)]
LabelSelector = Annotated[str, _checked(is_label_selector, "a label selector such as vaultsync=on,env!=prod")]
AuditListen = Annotated[str, AfterValidator(_audit_listen)]
Networks = Annotated[tuple[Network, ...], NoDecode, _parsed(_networks)]
LeaseName = Annotated[str, _checked(is_lease, "NAMESPACE/NAME of a Lease, such as vaultsync/vaultsync")]
PodName = Annotated[str, _checked(is_pod_name, "the name of a pod, such as vaultsync-5d8f9c7b6-x2x4z")]
ListenAddress = Annotated[str, _checked(_is_listen_address, "host:port, such as 0.0.0.0:8080")]
