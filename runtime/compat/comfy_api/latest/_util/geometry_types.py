"""3-D data, as plain holders."""

from __future__ import annotations

import io
import os
from typing import Any


class VOXEL:
    """A grid of cells."""

    def __init__(self, data: Any) -> None:
        self.data = data


class MESH:
    """Points and the triangles between them."""

    def __init__(self, vertices: Any, faces: Any, **more: Any) -> None:
        self.vertices = vertices
        self.faces = faces
        self.__dict__.update(more)


class SPLAT:
    """A cloud of Gaussians."""

    def __init__(self, *args: Any, **values: Any) -> None:
        self.args = args
        self.__dict__.update(values)


class File3D:
    """A 3-D model file, on disk or in memory."""

    def __init__(self, source: str | io.BytesIO, file_format: str = "") -> None:
        self._source = source
        suffix = os.path.splitext(source)[1] if isinstance(source, str) else ""
        self.format = (file_format or suffix).lstrip(".").lower()

    @property
    def is_disk_backed(self) -> bool:
        return isinstance(self._source, str)

    def get_source(self) -> str | io.BytesIO:
        return self._source

    def get_data(self) -> io.BytesIO:
        """The content, from its start."""
        return io.BytesIO(self.get_bytes())

    def get_bytes(self) -> bytes:
        if isinstance(self._source, str):
            with open(self._source, "rb") as file:
                return file.read()
        return self._source.getvalue()

    def save_to(self, path: str) -> str:
        """Write the content to a file and return its path."""
        content = self.get_bytes()
        with open(path, "wb") as file:
            file.write(content)
        return path
