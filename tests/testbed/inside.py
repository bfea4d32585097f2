"""`python -m tests.testbed.inside FOLDER run`: vaultsync with the files of its pod's ServiceAccount in that folder.

The mount path in a pod is a constant of the kubernetes package without a setting.
"""

import sys
from pathlib import Path

from kubernetes.aio.config import incluster_config

from vaultsync import cli


def main() -> int:
    """Runs vaultsync's `main` with that folder."""
    folder = Path(sys.argv.pop(1))
    incluster_config.SERVICE_TOKEN_FILENAME = str(folder / "token")
    incluster_config.SERVICE_CERT_FILENAME = str(folder / "ca.crt")
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
