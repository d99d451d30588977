"""Log lines: one JSON object each (text on a terminal), with the ids of what is being worked on.

Standard ``logging`` everywhere else. Ids come from a context variable, so a line deep inside the engine knows its
tenant without being told.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from policies import safe_text

_IDS = ("tenant", "prompt", "node", "extension", "sandbox")
_context: ContextVar[dict[str, str]] = ContextVar("ringfence_log_ids", default={})  # noqa: B039 - never mutated
_LINE_LIMIT = 8_000


class request_context:  # noqa: N801 - used as a function is
    """``with request_context(tenant=name)``: lines logged inside carry these ids."""

    __slots__ = ("_ids", "_token")

    def __init__(self, **ids: str) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        self._token = _context.set({**_context.get(), **self._ids})

    def __exit__(self, *_: object) -> None:
        _context.reset(self._token)


def current_tenant() -> str:
    """Whose request is being answered; empty outside of one."""
    return _context.get().get("tenant", "")


class IdsFilter(logging.Filter):
    """Puts the context's ids on the record, where the code that logged did not name them itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        for name, value in _context.get().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": safe_text(record.getMessage(), _LINE_LIMIT),
        }
        for name in _IDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = safe_text(str(value), 128)
        if record.exc_info:
            line["exception"] = safe_text(self.formatException(record.exc_info), _LINE_LIMIT, newlines=True)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; continued only for a traceback."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        ids = " ".join(
            f"{name}={safe_text(str(getattr(record, name)), 128)}"
            for name in _IDS
            if getattr(record, name, None) is not None
        )
        text = safe_text(record.getMessage(), _LINE_LIMIT)
        line = f"{time} {record.levelname.lower():7} {record.name}: {text}" + (f"  [{ids}]" if ids else "")
        if record.exc_info:
            line += "\n" + safe_text(self.formatException(record.exc_info), _LINE_LIMIT, newlines=True)
        return line


def configure(level: str, form: str) -> None:
    """Send every logger's lines to stderr in this form; called once, by ``ringfence serve``."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(IdsFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Metrics count requests; paths may be private, and a client id is as good as a key to a client's events.
    quiet = ("uvicorn", "uvicorn.error", "uvicorn.access")
    for name in (*quiet, "docker", "urllib3", "aiosqlite", "alembic", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of every odd byte in a form, which is the client's matter: a line each would be its way to fill our log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
