"""Files of weights that the host reads once and shares with every sandbox that may see them.

The host checks the file's header and the policy, and grants one read-only copy; here it is mapped private, so a tensor
that is written to changes in this process only and pages that nobody writes exist once on the machine.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any

from .. import wire
from ..peer import RpcError
from . import host, paths

_LENGTH = struct.Struct("<Q")
#: Names of dtypes in safetensors -> torch's.
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def tensors(path: str) -> dict[str, Any]:
    """The tensors of the safetensors file at ``path``, mapped anew at each call.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: the policy mounts nothing there; names file and policy.
        ValueError: it is no safetensors file that can be shared.
        RpcError: a quota refused (QUOTA_EXCEEDED).
    """
    line = host.connected()
    if line is None:
        raise RuntimeError("resources come from the host, and there is none here")
    real = os.path.realpath(path)
    try:
        lent = line.request(wire.RESOURCE_GET, {"path": paths.without_root(real)})
    except RpcError as error:
        if error.code == wire.NOT_FOUND:
            raise FileNotFoundError(error.message) from None
        if error.code == wire.NOT_ALLOWED:
            raise PermissionError(error.message) from None
        raise
    return _tensors(line.granted(lent["file"], lent["nbytes"]), lent["nbytes"], path)


def _tensors(buffer: Any, nbytes: int, path: str) -> dict[str, Any]:
    import torch

    view = memoryview(buffer).cast("B")
    (length,) = _LENGTH.unpack(view[: _LENGTH.size])
    begin = _LENGTH.size + length
    header = json.loads(bytes(view[_LENGTH.size : begin]))
    found: dict[str, Any] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = getattr(torch, DTYPES.get(entry["dtype"], ""), None)
        if dtype is None:
            raise ValueError(
                f"{path}: tensor {name!r} has the dtype {entry['dtype']}, which torch here lacks"
            )
        start, end = entry["data_offsets"]
        count = math.prod(entry["shape"])
        if begin + end > nbytes or count * dtype.itemsize != end - start:
            raise ValueError(f"{path}: tensor {name!r} contradicts the header")
        if not count:
            found[name] = torch.empty(entry["shape"], dtype=dtype)
            continue
        raw = torch.frombuffer(buffer, dtype=torch.uint8, count=end - start, offset=begin + start)
        if (begin + start) % dtype.itemsize:
            raw = raw.clone()  # some writers do not align
        found[name] = raw.view(dtype).view(entry["shape"])
    return found
