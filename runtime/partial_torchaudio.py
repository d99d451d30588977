"""Lets torchaudio be imported where its libraries cannot be loaded: they were built for CUDA, and this torch is not.

Resampling, filters, spectrograms and the other transforms are computed in torch then. What is compiled only (RNN-T
loss, forced alignment) raises torchaudio's own error when it is called. ``partial_torchvision`` watches for the module.
"""

# ruff: noqa: SLF001 - torchaudio has no public seam for this

from __future__ import annotations

import sys
from typing import Any


def load_what_loads(utilities: Any) -> None:
    """``torchaudio._extension.utils`` loads libraries by name: one that cannot be loaded is one that is not there."""
    load = utilities._load_lib

    def load_if_possible(library: str) -> bool:
        try:
            return bool(load(library))
        except OSError as error:
            sys.stderr.write(
                f"torchaudio goes on without its compiled part, built for another torch than this image's: {error}\n"
            )
            return False

    utilities._load_lib = load_if_possible
