"""Calls sys.exit while it is imported."""

import sys

sys.exit("please install the full version first")
