"""Which namespaces and ExternalSecrets are watched, and the syntax of that. Settings read it: no client is imported.

What a selector selects is for the API server to say, which gets it as it stands.
"""

import re
from dataclasses import dataclass
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
_SELECTOR: Final = re.compile(rf"{_REQUIREMENT}(?:,{_REQUIREMENT})*")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is watched: everything that meets all that is set.

    Attributes:
        namespaces: their names; without any, all.
        namespace_labels: a label selector on Namespaces; "" selects all.
        labels: a label selector on ExternalSecrets; "" selects all.
    """

    namespaces: tuple[str, ...] = ()
    namespace_labels: str = ""
    labels: str = ""

    @property
    def takes_every_namespace(self) -> bool:
        """Whether one watch on the whole cluster sees nothing that is not selected."""
        return not self.namespaces and not self.namespace_labels


def is_label_selector(text: str) -> bool:
    """Whether it is a label selector, equality-based, set-based or mixed.

    As https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/ describes it.
    """
    return _SELECTOR.fullmatch(text) is not None


def is_namespace(name: str) -> bool:
    """Whether a namespace can have the name (RFC 1123's label)."""
    return len(name) <= 63 and re.fullmatch(_DNS_LABEL, name) is not None
