"""The names under which this level's tests know the stack."""

from tests.stack import ROOT, Have, Stack

__all__ = ["ROOT", "Have", "Stack"]
