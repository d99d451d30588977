"""The base score of a CVSS 3 vector, as the specification of FIRST defines it. Pure."""

from __future__ import annotations

import math
from typing import Final

_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES: Final[dict[str, dict[str, float]]] = {
    "U": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"N": 0.85, "L": 0.68, "H": 0.5},
}


def base_score(vector: str) -> float | None:
    """The score (0 to 10) of a vector such as ``CVSS:3.1/AV:N/AC:L/...``; None when it is none of version 3."""
    if len(vector) > 200 or not vector.startswith(("CVSS:3.0/", "CVSS:3.1/")):
        return None
    parts = dict(part.partition(":")[::2] for part in vector.split("/")[1:])
    try:
        weights = {name: values[parts[name]] for name, values in _WEIGHTS.items()}
        scope = parts["S"]
        privileges = _PRIVILEGES[scope][parts["PR"]]
    except KeyError:
        return None
    impact = 1 - (1 - weights["C"]) * (1 - weights["I"]) * (1 - weights["A"])
    if scope == "U":
        impact *= 6.42
    else:
        impact = 7.52 * (impact - 0.029) - 3.25 * (impact - 0.02) ** 15
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * weights["AV"] * weights["AC"] * privileges * weights["UI"]
    total = impact + exploitability if scope == "U" else 1.08 * (impact + exploitability)
    return _rounded_up(min(total, 10.0))


def _rounded_up(value: float) -> float:
    # To one decimal, without the errors of binary fractions: the specification's own way.
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10


def level_of(score: float) -> str:
    """The word for a score."""
    for least, word in ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low")):
        if score >= least:
            return word
    return "none"
