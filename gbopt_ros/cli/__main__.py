"""`python -m gbopt_ros.cli` is `gbopt`."""

from __future__ import annotations

from gbopt_ros.cli.main import program

if __name__ == "__main__":
    program()
