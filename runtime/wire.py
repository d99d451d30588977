"""The protocol between host and worker, as data: frames, method names, error codes, value tags, limits.

Both sides import this file and nothing here does I/O on anything but the streams it is handed.
``docs/protocol.md`` is the prose; a test holds the two together. Bump ``PROTOCOL_VERSION`` with every change
that an older peer would misread.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

PROTOCOL_VERSION: Final = 1

# -- frames --------------------------------------------------------------------------------------------------
# A frame is a big-endian u32 byte count, then that many bytes of UTF-8 JSON holding one JSON-RPC 2.0 object.
HEADER: Final = struct.Struct(">I")
MAX_FRAME: Final = 4 * 1024 * 1024
#: The longest frame of a worker that is no answer: what it asks or tells.
MAX_NOTIFICATION: Final = 256 * 1024
#: Strings, bytes and encoded values longer than this many bytes travel as a file in /dev/shm, not in a frame.
INLINE_LIMIT: Final = 64 * 1024
#: Most bytes of an HTTP body in one message (before base64).
HTTP_PIECE: Final = 512 * 1024
#: Most headers of one HTTP message, and characters in all of them together.
HTTP_HEADERS: Final = 100
HTTP_HEADER_CHARACTERS: Final = 16 * 1024
#: Most bytes of one message on a WebSocket of a route: to the pack (aiohttp's own default) and from it.
SOCKET_TO_PACK: Final = 4 * 1024 * 1024
SOCKET_FROM_PACK: Final = 16 * 1024 * 1024
#: Most subprotocols that a client may offer, and most bytes of the reason in a close frame (RFC 6455).
SOCKET_PROTOCOLS: Final = 16
SOCKET_REASON: Final = 123
MAX_DEPTH: Final = 64
#: Bytes of node descriptions in one answer, and of one extension in all its answers together.
MAX_PAGE: Final = MAX_FRAME - 512 * 1024
MAX_DESCRIPTIONS: Final = 32 * 1024 * 1024
#: What one node instance may keep on the host: bytes of JSON of all its attributes together, and their number.
MAX_STATE: Final = 128 * 1024
MAX_STATE_NAMES: Final = 256
#: Characters of a node id. A loop that expands itself adds some ten to it with every turn.
MAX_NODE_ID: Final = 16 * 1024
#: What `worker/prepare` may be asked to import: what takes long, and nothing that a pack brings along by name.
SLOW_MODULES: Final = ("numpy", "torch")

# -- methods: host -> worker -----------------------------------------------------------------------------------
HELLO: Final = "worker/hello"
BYE: Final = "worker/bye"
PREPARE: Final = "worker/prepare"
LOAD: Final = "extension/load"
DESCRIBE: Final = "extension/describe"
VALIDATE: Final = "node/validate"
FINGERPRINT: Final = "node/fingerprint"
LAZY: Final = "node/lazy"
EXECUTE: Final = "node/execute"
CANCEL: Final = "node/cancel"  # notification
RELEASE_HANDLES: Final = "handle/release"  # notification
DROP_INSTANCES: Final = "instance/drop"  # notification
HTTP_REQUEST: Final = "http/request"
HTTP_SEND: Final = "http/send"
HTTP_READ: Final = "http/read"
HTTP_CLOSE: Final = "http/close"  # notification
SOCKET_OPEN: Final = "socket/open"
SOCKET_SEND: Final = "socket/send"
SOCKET_RECEIVE: Final = "socket/receive"
SOCKET_CLOSE: Final = "socket/close"  # notification
PROMPT_HOOK: Final = "prompt/hook"

# -- methods: worker -> host -----------------------------------------------------------------------------------
ALLOCATE: Final = "shm/allocate"
DISCARD: Final = "shm/discard"  # notification
PROGRESS: Final = "node/progress"  # notification
TEXT: Final = "node/text"  # notification
LOG: Final = "log"  # notification
EVENT: Final = "event/send"  # notification
STATE_GET: Final = "state/get"
STATE_SET: Final = "state/set"
STATE_DELETE: Final = "state/delete"
RESOURCE_GET: Final = "resource/get"
SEEN: Final = "watch/seen"  # notification, from a watched worker only

HOST_METHODS: Final = frozenset(
    {
        HELLO,
        BYE,
        PREPARE,
        LOAD,
        DESCRIBE,
        VALIDATE,
        FINGERPRINT,
        LAZY,
        EXECUTE,
        CANCEL,
        RELEASE_HANDLES,
        DROP_INSTANCES,
        HTTP_REQUEST,
        HTTP_SEND,
        HTTP_READ,
        HTTP_CLOSE,
        SOCKET_OPEN,
        SOCKET_SEND,
        SOCKET_RECEIVE,
        SOCKET_CLOSE,
        PROMPT_HOOK,
    }
)
WORKER_METHODS: Final = frozenset(
    {
        ALLOCATE,
        DISCARD,
        PROGRESS,
        TEXT,
        LOG,
        EVENT,
        STATE_GET,
        STATE_SET,
        STATE_DELETE,
        RESOURCE_GET,
        SEEN,
    }
)

# -- error codes (JSON-RPC reserves -32768..-32000; -32000..-32099 is ours to define) ---------------------------
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NODE_RAISED: Final = -32001  # the pack's code raised; data = {type, message, traceback: [str], inputs}
INTERRUPTED: Final = -32002  # the node stopped because of node/cancel or raised InterruptProcessingException
LOAD_FAILED: Final = -32003  # the extension could not be imported; data as NODE_RAISED
UNKNOWN_NODE: Final = -32004  # no such class in this extension
VALUE_NOT_PORTABLE: Final = -32005  # a value cannot be decoded or encoded; data = {what}
QUOTA_EXCEEDED: Final = -32006  # host refuses shm/allocate; data = {limit, asked, used}
UNKNOWN_HANDLE: Final = -32007  # an object handle that this worker does not hold
OUT_OF_MEMORY: Final = -32008  # MemoryError or the device's OOM error inside the node
NOT_FOUND: Final = -32009  # resource/get: there is no such file
NOT_ALLOWED: Final = -32010  # the policy, or what the host serves at all, does not cover what was asked for
NOT_FOLLOWING: Final = -32011  # node/execute with follows: the call before did not end so; nothing was run

# -- value tags --------------------------------------------------------------------------------------------------
# null, bool, int, finite float and short str are themselves; a list is a JSON array; a dict with only str keys of
# which none begins with "$" is a JSON object. Everything else is an object with exactly one key, a tag:
TAG_TUPLE: Final = "$tuple"  # [values]
TAG_DICT: Final = "$dict"  # [[key value, value], ...]: any other dict
TAG_SET: Final = "$set"  # [values]; frozenset travels as set
TAG_FLOAT: Final = "$float"  # "nan" | "inf" | "-inf"
TAG_COMPLEX: Final = "$complex"  # [re, im] as floats or TAG_FLOAT
TAG_TENSOR: Final = "$tensor"  # tensor ref, see TENSOR_REF
TAG_ARRAY: Final = "$array"  # the same for a numpy array
TAG_SCALAR: Final = "$scalar"  # {"dtype": numpy dtype str, "value": number, bool, TAG_FLOAT or TAG_COMPLEX}
TAG_BYTES: Final = "$bytes"  # {"file", "nbytes", "mutable": bool}
TAG_STR: Final = "$str"  # {"file", "nbytes"}: a long string, UTF-8
TAG_JSON: Final = (
    "$json"  # {"file", "nbytes"}: an encoded value too large for a frame; holds no further TAG_JSON
)
TAG_HANDLE: Final = "$handle"  # {"id": int, "type": str, "sandbox": str (set by the host)}
TAG_FOREIGN: Final = (
    "$foreign"  # host: {"id": int, "type": str, "text": str}; worker: {"id": int}: may be handed on only
)
TAG_BLOCKER: Final = "$blocker"  # null or message: an ExecutionBlocker
TAGS: Final = frozenset(
    {
        TAG_TUPLE, TAG_DICT, TAG_SET, TAG_FLOAT, TAG_COMPLEX, TAG_TENSOR, TAG_ARRAY, TAG_SCALAR, TAG_BYTES,
        TAG_STR, TAG_JSON, TAG_HANDLE, TAG_FOREIGN, TAG_BLOCKER,
    }
)  # fmt: skip

#: Keys of a tensor ref. ``file`` is a bare file name: in the worker's out directory when the worker sends it (or an
#: input of the same call that it hands on unchanged), in its in directory when the host does. The buffer is
#: C-contiguous, little-endian, from byte 0; nbytes is exactly itemsize * product(shape). requires_grad is false for
#: arrays.
TENSOR_REF: Final = ("file", "nbytes", "dtype", "shape", "requires_grad")

#: dtype name on the wire -> bytes per item. Names are torch's without the prefix; numpy adds none but uint16/32/64.
ITEMSIZE: Final[dict[str, int]] = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip

# -- places inside a sandbox ---------------------------------------------------------------------------------------
HIDDEN_CLASSES: Final = (
    "ringfence_classes"  # in call params' hidden: what is known of classes in other sandboxes
)
SOCKET_PATH: Final = "/ringfence/socket/worker.sock"
EGRESS_SOCKET: Final = (
    "/ringfence/egress/proxy.sock"  # the host's proxy; only where the policy allows a network
)
EGRESS_BUNDLE: Final = (
    "/ringfence/egress/ca.pem"  # certificates to trust; only where the policy names secrets
)
EGRESS_PORT: Final = 3128  # on the sandbox's own 127.0.0.1: leads to EGRESS_SOCKET
IN_DIRECTORY: Final = "/ringfence/in"  # read-only: what the host granted
OUT_DIRECTORY: Final = "/ringfence/out"  # files the host allocated; the directory itself is not writable
CODE_DIRECTORY: Final = "/ringfence/code"  # read-only: <CODE_DIRECTORY>/<extension name>
ENVIRONMENT_DIRECTORY: Final = "/ringfence/env"  # read-only: site-packages of the extension's environment
APP_DIRECTORY: Final = "/app"  # ComfyUI's root as packs see it: throwaway tmpfs


class FrameError(Exception):
    """The peer broke the framing: the session cannot go on."""


class FrameTooLargeError(FrameError):
    """A frame announced more than the allowed bytes, or none."""


class TruncatedFrameError(FrameError):
    """The stream ended inside a frame."""


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode_frame(message: dict[str, Any], *, limit: int = MAX_FRAME) -> bytes:
    """Return the bytes of one frame.

    Raises:
        FrameTooLargeError: the encoded message is longer than ``limit``.
        ValueError: the message holds NaN or infinity (they need TAG_FLOAT).
    """
    body = _ENCODER.encode(message).encode(
        "utf-8",
        "backslashreplace",  # only a lone surrogate cannot be encoded; \udXXX is how JSON writes it
    )
    if len(body) > limit:
        raise FrameTooLargeError(f"frame of {len(body)} bytes; the limit is {limit}")
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes, *, limit: int = MAX_FRAME) -> int:
    """Return the body length that a 4-byte header announces.

    Raises:
        FrameTooLargeError: the length is zero or over ``limit``; the stream cannot be resynchronised.
    """
    (length,) = HEADER.unpack(header)
    if not 0 < length <= limit:
        raise FrameTooLargeError(f"frame announces {length} bytes; allowed are 1 to {limit}")
    return int(length)
