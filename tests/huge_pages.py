"""Whether this machine's kernel makes huge pages at our asking."""

from __future__ import annotations

import os
import re

from sandbox import huge_page_size


def makes_huge_pages() -> bool:
    """It has them, and ``MADV_COLLAPSE``, which came with Linux 6.1."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return bool(huge_page_size() and found and (int(found[1]), int(found[2])) >= (6, 1))
