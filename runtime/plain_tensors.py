"""Tensors whose memory is their value, as most nodes return them: told by one look, and published from where they lie.

What is not just that (other devices and layouts, views, subclasses, parameters, empty ones) is left to ``tensors.py``;
where both could answer, both say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import tensors, wire
from .files import Offered, SharedFiles
from .values import files_in

if TYPE_CHECKING:
    import torch

_names: dict[Any, str] = {}
"""Of torch's dtypes that a file can hold, once torch is there."""


class Given(Container[str]):
    """The files that a call was granted for its inputs; looked for when somebody asks."""

    def __init__(self, inputs: Mapping[str, Any] | None) -> None:
        self._inputs = inputs

    def __contains__(self, name: object) -> bool:
        return name in self._files

    @cached_property
    def _files(self) -> frozenset[str]:
        return frozenset(files_in(list((self._inputs or {}).values())))


class PlainTensors:
    """Publishes plain tensors of one reply, and can take them all back."""

    def __init__(self, files: SharedFiles, given: Given, offered: Offered) -> None:
        self._files = files
        self._given = given
        self._offered = offered
        self._published: list[str] = []

    @staticmethod
    def admits(value: Any) -> bool:
        """Whether it is such a tensor."""
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not getattr(torch, "Tensor", None):
            return False
        if not _names:
            _names.update((getattr(torch, name), name) for name in wire.ITEMSIZE if hasattr(torch, name))
        return (
            value.dtype in _names
            and value.is_cpu
            and value.layout is torch.strided
            and not value.is_nested
            and tensors.is_plain(value)
            and value.numel() > 0
        )

    def text(self, tensor: torch.Tensor) -> str:
        """Publish it; its encoded value as JSON. An unchanged input is only named.

        Raises:
            RpcError: the host refused the space (QUOTA_EXCEEDED).
        """
        dtype = _names[tensor.dtype]
        nbytes, address = tensor.numel() * wire.ITEMSIZE[dtype], tensor.data_ptr()
        file = self._files.handed_on(address, nbytes, self._given)
        if file is None:
            file = self._files.publish((tensors.memory(tensor),), nbytes, self._offered)
            self._published.append(file)
        shape = ",".join(map(str, tensor.shape))
        grad = "true" if tensor.requires_grad else "false"
        return (
            f'{{"{wire.TAG_TENSOR}":{{"file":"{file}","nbytes":{nbytes},"dtype":"{dtype}",'
            f'"shape":[{shape}],"requires_grad":{grad}}}}}'
        )

    def rollback(self) -> None:
        """Give back every file of this reply: it will not be sent."""
        for name in self._published:
            self._files.discard(name)
        self._published.clear()
