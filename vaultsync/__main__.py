"""`python -m vaultsync`: the same as the `vaultsync` command."""

import sys

from vaultsync.cli import main

if __name__ == "__main__":
    sys.exit(main())
