"""Curves and ranges that a user drew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

CurvePoint = tuple[float, float]


class CurveInput(ABC):
    """A function from 0..1 to 0..1 through points."""

    @property
    @abstractmethod
    def points(self) -> list[CurvePoint]:
        """The points, by ascending x."""

    @abstractmethod
    def interp(self, x: float) -> float:
        """The value at ``x``."""

    def interp_array(self, xs: Any) -> Any:
        import numpy as np

        return np.array([self.interp(float(x)) for x in np.asarray(xs).ravel()]).reshape(np.shape(xs))

    def to_lut(self, size: int = 256) -> Any:
        """Values at ``size`` places from 0 to 1."""
        import numpy as np

        return self.interp_array(np.linspace(0.0, 1.0, size))

    @staticmethod
    def from_raw(data: Any) -> CurveInput:
        """From what a client sends: points, or ``{"points", "interpolation"}``."""
        if isinstance(data, CurveInput):
            return data
        points: Any = data["points"] if isinstance(data, dict) else data
        kind = data.get("interpolation") if isinstance(data, dict) else None
        given = [(float(x), float(y)) for x, y in points]
        return LinearCurve(given) if kind == "linear" else MonotoneCubicCurve(given)


class LinearCurve(CurveInput):
    """Straight lines between the points."""

    def __init__(self, control_points: list[CurvePoint]) -> None:
        self._points = sorted(control_points)

    @property
    def points(self) -> list[CurvePoint]:
        return list(self._points)

    def interp(self, x: float) -> float:
        points = self._points
        if not points:
            return 0.0
        if x <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in pairwise(points):
            if x <= x1:
                return self._between(x, x0, y0, x1, y1)
        return points[-1][1]

    def _between(self, x: float, x0: float, y0: float, x1: float, y1: float) -> float:
        return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


class MonotoneCubicCurve(LinearCurve):
    """A smooth curve that never overshoots its points (Fritsch and Carlson)."""

    def __init__(self, control_points: list[CurvePoint]) -> None:
        super().__init__(control_points)
        self._slopes = self._tangents()

    def _tangents(self) -> dict[float, float]:
        points = self._points
        count = len(points)
        if count < 2:
            return {x: 0.0 for x, _ in points}
        rises = [0.0 if x1 == x0 else (y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points)]
        slopes = [rises[0]] + [
            0.0 if left * right <= 0 else (left + right) / 2 for left, right in pairwise(rises)
        ]
        slopes.append(rises[-1])
        for index, rise in enumerate(rises):
            if rise == 0.0:
                slopes[index] = slopes[index + 1] = 0.0
                continue
            a, b = slopes[index] / rise, slopes[index + 1] / rise
            size = a * a + b * b
            if size > 9.0:
                slopes[index] = 3.0 / size**0.5 * a * rise
                slopes[index + 1] = 3.0 / size**0.5 * b * rise
        return {x: slope for (x, _), slope in zip(points, slopes, strict=True)}

    def _between(self, x: float, x0: float, y0: float, x1: float, y1: float) -> float:
        if x1 == x0:
            return y0
        width = x1 - x0
        t = (x - x0) / width
        left, right = self._slopes[x0] * width, self._slopes[x1] * width
        return (
            (2 * t**3 - 3 * t**2 + 1) * y0
            + (t**3 - 2 * t**2 + t) * left
            + (-2 * t**3 + 3 * t**2) * y1
            + (t**3 - t**2) * right
        )


class RangeInput:
    """A lower and an upper bound, and a point between them."""

    def __init__(self, min_val: float, max_val: float, midpoint: float | None = None) -> None:
        self.min_val = min_val
        self.max_val = max_val
        self.midpoint = midpoint

    @staticmethod
    def from_raw(data: Any) -> RangeInput:
        """From what a client sends."""
        if isinstance(data, RangeInput):
            return data
        if isinstance(data, dict):
            middle = data.get("midpoint")
            return RangeInput(
                float(data["min"]), float(data["max"]), None if middle is None else float(middle)
            )
        low, high, *rest = data
        return RangeInput(float(low), float(high), float(rest[0]) if rest else None)
