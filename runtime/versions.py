"""Which version of a package an import would find, without importing it, and without ``importlib.metadata``.

That module brings a mail parser and an archiver along: 2 MiB in every sandbox, and a tenth of a bare worker's start.
"""

from __future__ import annotations

import os
import re
import sys

_INSTALLED = re.compile(r"(?P<name>[a-z0-9_]+)-(?P<version>[^-]+)\.(?:dist|egg)-info\Z", re.IGNORECASE)


def installed(name: str) -> str | None:
    """The version of ``name`` (as its directory spells it, in lower case) that comes first on the search path."""
    for place in sys.path:
        try:
            entries = os.listdir(place)  # noqa: PTH208 - names, not paths
        except OSError:  # not a directory, or not there
            continue
        for entry in entries:
            found = _INSTALLED.match(entry)
            if found is not None and found["name"].lower() == name:
                return found["version"]
    return None
