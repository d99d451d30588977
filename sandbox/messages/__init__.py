"""Everything a worker may say, as strict models with limits.

``parse_message`` turns a frame into one of four shapes (envelope.py); each shape's content has a model in one of the
files beside it and nothing else is accepted. Display text passes ``safe_text`` where it becomes a plain dataclass of
``calls.py``. A worker that says anything else has broken the protocol and is ended. JSON itself is read in
``hostile_json.py``, values in ``values.py``.
"""

from sandbox.messages.answers import (
    Hello,
    described,
    fingerprint,
    hello,
    hooked,
    lazy,
    loaded,
    prepared,
    validated,
)
from sandbox.messages.asked import (
    LOG_LIMIT,
    PREVIEW_LIMIT,
    Allocate,
    Discard,
    LogPiece,
    NodeText,
    Preview,
    ProgressReport,
    ResourceGet,
    Seen,
    SentEvent,
    StateDelete,
    StateGet,
    StateSet,
)
from sandbox.messages.envelope import (
    MAX_ID,
    Answer,
    RemoteError,
    Request,
    checked,
    parse_message,
    short_answer,
)
from sandbox.messages.failures import TRACEBACK_LINES, failure
from sandbox.messages.results import (
    MAX_RESULT_PARTS,
    PLAIN_SLOTS,
    PLAIN_TEXT,
    ParsedCall,
    ParsedNode,
    ParsedResult,
    executed,
    executed_plainly,
)
from sandbox.messages.routes import (
    HttpHead,
    HttpPiece,
    SocketPiece,
    http_head,
    http_piece,
    socket_opened,
    socket_said,
)

__all__ = [
    "LOG_LIMIT",
    "MAX_ID",
    "MAX_RESULT_PARTS",
    "PLAIN_SLOTS",
    "PLAIN_TEXT",
    "PREVIEW_LIMIT",
    "TRACEBACK_LINES",
    "Allocate",
    "Answer",
    "Discard",
    "Hello",
    "HttpHead",
    "HttpPiece",
    "LogPiece",
    "NodeText",
    "ParsedCall",
    "ParsedNode",
    "ParsedResult",
    "Preview",
    "ProgressReport",
    "RemoteError",
    "Request",
    "ResourceGet",
    "Seen",
    "SentEvent",
    "SocketPiece",
    "StateDelete",
    "StateGet",
    "StateSet",
    "checked",
    "described",
    "executed",
    "executed_plainly",
    "failure",
    "fingerprint",
    "hello",
    "hooked",
    "http_head",
    "http_piece",
    "lazy",
    "loaded",
    "parse_message",
    "prepared",
    "short_answer",
    "socket_opened",
    "socket_said",
    "validated",
]
