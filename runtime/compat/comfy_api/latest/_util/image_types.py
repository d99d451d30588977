"""Vector pictures."""

from __future__ import annotations

from io import BytesIO


class SVG:
    """One or several SVG files in memory."""

    def __init__(self, data: list[BytesIO]) -> None:
        if not isinstance(data, list) or not all(isinstance(item, BytesIO) for item in data):
            raise TypeError("SVG takes a list of BytesIO")
        self.data = data

    def combine(self, other: SVG) -> SVG:
        return SVG(self.data + other.data)

    @staticmethod
    def combine_all(svgs: list[SVG]) -> SVG:
        return SVG([item for svg in svgs for item in svg.data])
