"""`python -m tests.testbed.inside FOLDER run`: vaultsync with the files of its pod's ServiceAccount in that folder.

Where they are mounted in a pod is a constant of the kubernetes package, for which it has no setting.
"""

import sys
from pathlib import Path

from kubernetes.aio.config import incluster_config

from vaultsync import cli


def main() -> int:
    """As vaultsync's own."""
    folder = Path(sys.argv.pop(1))
    incluster_config.SERVICE_TOKEN_FILENAME = str(folder / "token")
    incluster_config.SERVICE_CERT_FILENAME = str(folder / "ca.crt")
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
