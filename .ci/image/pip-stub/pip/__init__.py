"""Stands in for pip inside a sandbox, where nothing can be installed."""

import sys

MESSAGE = (
    "pip is not available inside a sandbox: declare dependencies in requirements.txt; "
    "run 'ringfence extension reload'"
)


def main(*_args: object) -> int:
    """Refuse, whatever was asked for."""
    sys.stderr.write(f"{MESSAGE}\n")
    return 1
