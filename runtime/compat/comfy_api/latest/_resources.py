"""``Resources``: files of weights by folder and name, read once by the host and shared with every sandbox.

Only safetensors can be shared. Any other kind of file, and one that lies in this sandbox alone, is loaded for this
sandbox alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ....peer import RpcError
from ....sdk import host, resources

_SHARED = (".safetensors", ".sft")


class ResourceKey:
    """Names a resource."""

    Type: Any = Any


class TorchDictFolderFilename(ResourceKey):
    """The tensors of a file in one of the model folders, such as ``loras``."""

    Type = dict

    def __init__(self, folder_name: str, file_name: str) -> None:
        self.folder_name = folder_name
        self.file_name = file_name

    def __hash__(self) -> int:
        return hash((self.folder_name, self.file_name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchDictFolderFilename) and (self.folder_name, self.file_name) == (
            other.folder_name,
            other.file_name,
        )

    def __str__(self) -> str:
        return f"{self.folder_name} -> {self.file_name}"


class Resources:
    """What a node gets its files of weights from: ``cls.resources.get(key)``."""

    def get(self, key: ResourceKey, default: Any = ...) -> Any:
        """The resource: for ``TorchDictFolderFilename`` a dict from names to tensors, this node's own to change.

        Raises:
            FileNotFoundError: there is no such file here and no ``default`` was given.
            TypeError: the key is of a kind that is not known.
        """
        if not isinstance(key, TorchDictFolderFilename):
            raise TypeError(
                f"a resource key must be an io.TorchDictFolderFilename, not a {type(key).__name__}"
            )
        from ... import folder_paths

        try:
            path = folder_paths.get_full_path(key.folder_name, key.file_name)
        except KeyError:
            path = None
        if path is None:
            if default is not ...:
                return default
            raise FileNotFoundError(
                f"no file {key.file_name!r} in the model folder {key.folder_name!r}: put it into the tenant's "
                f"models/{key.folder_name}, and let 'paths' in this extension's policy name 'models' "
                f"or the file's directory"
            )
        return _load(path)


class ResourcesLocal(Resources):
    """The same, under the name of the drafts."""


def _load(path: str) -> Any:
    from ...comfy.utils import load_torch_file

    if path.lower().endswith(_SHARED) and host.connected() is not None:
        try:
            return resources.tensors(path)
        except (PermissionError, RpcError) as error:
            if not os.path.isfile(path):
                raise
            # The node needs the weights, shared or not; who looks for the memory finds the reason in the log.
            print(f"{path} is loaded for this sandbox alone: {error}", file=sys.stderr)  # noqa: T201
    return load_torch_file(path, safe_load=True)
