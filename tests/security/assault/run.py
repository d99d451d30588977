"""The first thing that runs in the container: ``python -I run.py '{"attacks": [...], ...}'``."""

from __future__ import annotations

import importlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
ground = importlib.import_module("ground")
importlib.import_module("kernel")
importlib.import_module("around")
importlib.import_module("further")

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    ground.TOLD.update(given)
    ground.run(given["attacks"])
