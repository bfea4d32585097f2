"""Read-your-writes consistency for Vault clusters whose standby nodes respond to reads themselves.

Vault Enterprise (https://developer.hashicorp.com/vault/docs/enterprise/consistency) and OpenBao
(https://openbao.org/docs/next/concepts/consistency/) return an index in the response to a write. Only a node that
has replicated that far accepts a request with this index; others return 412.
"""

import re
import time
from typing import Final

BEHIND: Final = 412
"""The status of a node that has not replicated the index, or the token, yet."""
BEHIND_SECONDS: Final = 10.0
"""After this time an index that no node has is dropped, as after Vault was restored from a backup."""
INDEX: Final = "X-Vault-Index"
MAX_INDEX: Final = 1024
"""Characters."""


class ReplicationIndex:
    """The index of the last write, which the next requests must see.

    With `X-Vault-Inconsistent` a node that is behind forwards the request to the active node. Where Vault's
    configuration does not allow that, which is its default, it refuses every such request (400): then that header is
    left out, and the node returns 412.
    """

    def __init__(self) -> None:
        self._index = ""
        self._forwards = True
        self._behind_since: float | None = None

    def headers(self) -> dict[str, str]:
        """The headers of the next request."""
        if not self._index:
            return {}
        return {INDEX: self._index, **({"X-Vault-Inconsistent": "forward-active-node"} if self._forwards else {})}

    def refused(self) -> None:
        """Drop the header that Vault refuses."""
        if self._forwards:
            self._forwards = False
        else:
            self._index = ""  # of another Vault, such as the one that was here before

    def responded(self, method: str, status: int, returned: str, sent: str) -> None:
        """Note a response: the untrusted index that it returned, and the one sent in the request, each "" for none."""
        now = time.monotonic()
        if sent and status in (BEHIND, 429):  # OpenBao returns 429 where it does not forward
            self._behind_since = self._behind_since or now
            if now - self._behind_since >= BEHIND_SECONDS:
                self._index, self._behind_since = "", None
            return
        self._behind_since = None
        if method not in ("GET", "LIST") and re.fullmatch(f"[!-~]{{1,{MAX_INDEX}}}", returned):
            self._index = returned
