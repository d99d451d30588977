"""Results of numbers, truths, short texts and plain tensors: told by one look, and written without an encoder.

Most nodes of most prompts return nothing else. What is not just that is left to ``calling.execute_result``; where both
could answer, both say the same.
"""

from __future__ import annotations

import math
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .plain_tensors import PlainTensors

MAX_VALUES: Final = 16
MAX_TEXT: Final = 200
_MAX_BITS: Final = 63


class Written(str):
    """A result that is JSON text already."""

    __slots__ = ()


def plain_result(
    cls: Any, outcomes: list[Any], declared: int, tensors: PlainTensors | None = None
) -> Written | None:
    """What ``cls``, which declares so many outputs, gave back, as the execute result of docs/protocol.md.

    None: not that plain; nothing was published. Without ``tensors`` none is plain.

    Raises:
        RpcError: the host refused the space for a tensor.
    """
    if len(outcomes) != 1 or getattr(cls, "OUTPUT_IS_LIST", None) is not None:
        return None
    (values,) = outcomes
    kind = type(values)
    if (kind is not tuple and kind is not list) or len(values) > min(declared, MAX_VALUES):
        return None
    texts: list[str] = []
    late = []
    for value in values:
        text = _text(value)
        if text is None:
            if tensors is None or not tensors.admits(value):
                return None
            late.append(len(texts))
            text = ""
        texts.append(text)
    if tensors is not None:  # nothing is published before all is known to be plain
        for at in late:
            texts[at] = tensors.text(values[at])
    slots = ",".join([f"[{text}]" for text in texts])
    return Written(f'{{"slots":[{slots}],"ui":null,"calls":null,"blocked":[]}}')


def _text(value: Any) -> str | None:
    """``value`` as JSON; None when it is not one of the plainest."""
    kind = type(value)
    if kind is int:
        return repr(value) if value.bit_length() <= _MAX_BITS else None
    if kind is str:
        return encode_basestring(value) if len(value) <= MAX_TEXT and value.isascii() else None
    if kind is float:
        return repr(value) if math.isfinite(value) else None
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    return None
