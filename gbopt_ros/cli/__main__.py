"""`python -m gbopt_ros.cli` is `gbopt`."""

from __future__ import annotations

import sys

from gbopt_ros.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
