"""The audit log: what was asked, allowed, refused and ended, in files that are only ever added to.

``record.py`` is the schema and the chain, ``writer.py`` the one thread that writes, ``reader.py`` reads, follows and
verifies. Launcher and host write a directory each (ADR 13).
"""

from sandbox.audit.reader import AuditReader, AuditUnreadableError, Filter, cursor_text, parse_cursor
from sandbox.audit.record import AuditEvent, AuditValue, Entry, Outcome, Record
from sandbox.audit.writer import AuditLimits, AuditUnavailableError, AuditWriter

__all__ = [
    "AuditEvent",
    "AuditLimits",
    "AuditReader",
    "AuditUnavailableError",
    "AuditUnreadableError",
    "AuditValue",
    "AuditWriter",
    "Entry",
    "Filter",
    "Outcome",
    "Record",
    "cursor_text",
    "parse_cursor",
]
