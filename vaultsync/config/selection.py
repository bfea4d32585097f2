"""Which namespaces and ExternalSecrets are watched. The API server evaluates the selectors."""

from dataclasses import dataclass


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
