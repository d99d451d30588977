"""torch tensors and numpy arrays to and from files in /dev/shm.

Neither library is imported here before a value needs it. What a file cannot hold (sparse, quantised, on no real
device) is refused by name; the caller decides what happens to types this module does not claim.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

from . import wire
from .files import Offered, SharedFiles
from .peer import RpcError

if TYPE_CHECKING:
    import numpy as np
    import torch

#: A strided tensor is gathered through a scratch buffer of this size: it stays in the cache, and needs no second
#: copy of the whole tensor (64 MiB permuted: 22 ms; contiguous() first 67 ms; through a mapping 37 ms).
_PIECE = 4 * 1024 * 1024

_NUMPY_KINDS = frozenset("biufc")


def is_tensor(value: Any) -> bool:
    """True for plain tensors and parameters; a subclass with a will of its own (``__torch_function__``) is not."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return False
    return type(value) is torch.Tensor or type(value) in {
        torch.nn.Parameter,
        getattr(torch.nn, "Buffer", None),
    }


def is_array(value: Any) -> bool:
    """True for numpy arrays of numbers; object, text and structured arrays and masked subclasses are not."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) not in {numpy.ndarray, numpy.memmap}:
        return False
    return value.dtype.kind in _NUMPY_KINDS and value.dtype.name in wire.ITEMSIZE


def encode_tensor(
    tensor: torch.Tensor, files: SharedFiles, given: Container[str] = (), offered: Offered | None = None
) -> dict[str, Any]:
    """Write a tensor to a new file; return its tensor ref. An unchanged input among the files ``given`` is only named.
    ``offered`` are files that may be taken for new ones.

    Raises:
        RpcError: it has no plain buffer (VALUE_NOT_PORTABLE), or the host refused the space (QUOTA_EXCEEDED).
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    obstacle = _obstacle(tensor, dtype)
    if obstacle is not None:
        raise RpcError(
            wire.VALUE_NOT_PORTABLE, f"a tensor cannot leave its node: {obstacle}", {"what": obstacle}
        )
    source = tensor.detach()
    if source.device.type != "cpu":
        source = source.cpu()
    shape = [int(size) for size in source.shape]
    nbytes = wire.ITEMSIZE[dtype] * math.prod(shape)
    file = files.handed_on(source.data_ptr(), nbytes, given) if nbytes and is_plain(source) else None
    return {
        "file": file or (files.publish(_tensor_bytes(source), nbytes, offered) if nbytes else None),
        "nbytes": nbytes,
        "dtype": dtype,
        "shape": shape,
        "requires_grad": bool(tensor.requires_grad),
    }


def decode_tensor(ref: dict[str, Any], files: SharedFiles) -> torch.Tensor:
    """Return the tensor of a ref: a private copy-on-write view of the file.

    Raises:
        RpcError: torch or the dtype is missing here, or the ref contradicts itself or its file.
    """
    shape = _checked_shape(ref)
    try:
        import torch
    except ImportError as error:
        raise _missing("torch", "a tensor") from error
    dtype = getattr(torch, ref["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise _missing(f"torch {torch.__version__}", f"the dtype {ref['dtype']}")
    if ref["nbytes"] == 0:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.frombuffer(files.map(ref["file"], ref["nbytes"]), dtype=dtype)
        tensor.resize_(shape)  # as many elements: no byte moves, and it is no view of another
    return tensor.requires_grad_() if ref.get("requires_grad") else tensor


def encode_array(
    array: np.ndarray[Any, Any],
    files: SharedFiles,
    given: Container[str] = (),
    offered: Offered | None = None,
) -> dict[str, Any]:
    """Write an array (see ``is_array``) to a new file; return its tensor ref. An unchanged input is only named.
    ``offered`` are files that may be taken for new ones.

    Raises:
        RpcError: the host refused the space (QUOTA_EXCEEDED).
    """
    is_plain = array.nbytes and array.flags.c_contiguous and array.dtype == array.dtype.newbyteorder("<")
    file = files.handed_on(array.ctypes.data, array.nbytes, given) if is_plain else None
    return {
        "file": file or (files.publish(_array_bytes(array), array.nbytes, offered) if array.nbytes else None),
        "nbytes": int(array.nbytes),
        "dtype": array.dtype.name,
        "shape": [int(size) for size in array.shape],
        "requires_grad": False,
    }


def decode_array(ref: dict[str, Any], files: SharedFiles) -> np.ndarray[Any, Any]:
    """Return the array of a ref: a writable, private view of the file.

    Raises:
        RpcError: numpy or the dtype is missing here, or the ref contradicts itself or its file.
    """
    shape = _checked_shape(ref)
    try:
        import numpy as np
    except ImportError as error:
        raise _missing("numpy", "an array") from error
    try:
        dtype = np.dtype(ref["dtype"]).newbyteorder("<")
    except TypeError as error:
        raise _missing(f"numpy {np.__version__}", f"the dtype {ref['dtype']}") from error
    if ref["nbytes"] == 0:
        return np.empty(shape, dtype=dtype)
    array: np.ndarray[Any, Any] = np.frombuffer(files.map(ref["file"], ref["nbytes"]), dtype=dtype)
    return array.reshape(shape)


def _obstacle(tensor: torch.Tensor, dtype: str) -> str | None:
    import torch

    if getattr(tensor, "is_nested", False):
        return "nested tensors have no single buffer"
    if tensor.layout is not torch.strided:
        return f"its layout is {tensor.layout}; convert it with .to_dense()"
    if tensor.is_quantized:
        return f"it is quantised ({dtype}); convert it with .dequantize()"
    if tensor.device.type == "meta":
        return "it is on the meta device and holds no data"
    if dtype not in wire.ITEMSIZE:
        return f"its dtype {dtype} is not supported"
    return None


def is_plain(source: torch.Tensor) -> bool:
    """Whether its memory is its value, in order."""
    return source.is_contiguous() and not source.is_conj() and not source.is_neg()


def _tensor_bytes(source: torch.Tensor) -> Iterator[memoryview]:
    if is_plain(source):
        yield memory(source)
        return
    import torch

    itemsize = source.element_size()
    scratch = torch.empty(min(source.numel() * itemsize, max(_PIECE, itemsize)), dtype=torch.uint8).view(
        source.dtype
    )
    for piece in _pieces(source, itemsize):
        gathered = scratch[: piece.numel()].view(piece.shape)
        gathered.copy_(piece)  # also carries out pending conjugation and negation
        yield memory(gathered)


def _array_bytes(array: np.ndarray[Any, Any]) -> Iterator[memoryview]:
    import numpy as np

    little = array.dtype.newbyteorder("<")
    pieces = [array] if array.flags.c_contiguous else _pieces(array, array.itemsize)
    for piece in pieces:
        plain = np.ascontiguousarray(piece, dtype=little)
        yield plain.reshape(-1).view(np.uint8).data


def _pieces(whole: Any, itemsize: int) -> Iterator[Any]:
    """Cut a tensor or array, in C order, into parts of at most ``_PIECE`` bytes."""
    if whole.ndim == 0 or math.prod(whole.shape) * itemsize <= _PIECE:
        yield whole
        return
    row = math.prod(whole.shape[1:]) * itemsize
    if row > _PIECE:
        for index in range(whole.shape[0]):
            yield from _pieces(whole[index], itemsize)
        return
    step = max(1, _PIECE // row)
    for start in range(0, whole.shape[0], step):
        yield whole[start : start + step]


def memory(contiguous: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without numpy (an extension may bring a numpy that torch rejects)."""
    nbytes = contiguous.numel() * contiguous.element_size()
    return memoryview((ctypes.c_ubyte * nbytes).from_address(contiguous.data_ptr())).cast("B")


def _checked_shape(ref: dict[str, Any]) -> tuple[int, ...]:
    shape = tuple(ref["shape"])
    itemsize = wire.ITEMSIZE.get(ref["dtype"])
    if itemsize is None or min(shape, default=0) < 0 or itemsize * math.prod(shape) != ref["nbytes"]:
        raise RpcError(wire.VALUE_NOT_PORTABLE, "a tensor ref contradicts itself", {"what": "tensor ref"})
    return shape


def _missing(where: str, what: str) -> RpcError:
    return RpcError(
        wire.VALUE_NOT_PORTABLE,
        f"this node was sent {what}, which {where} in its environment lacks",
        {"what": what},
    )
