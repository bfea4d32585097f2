"""Syntax of Kubernetes names and label selectors, for the validation of settings."""

import re
from typing import Final

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
