"""The tables. What their rows mean beyond that is in queue.py, history.py, tenants.py and the like.

They are what the migrations lead to (tests compare the two): whoever changes one here adds a migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

metadata = sa.MetaData()
_Rowid = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite auto-numbers INTEGER keys only
_Document = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")  # orjson bytes

queue_table = sa.Table(
    "queue",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("prompt_id", sa.String(64), nullable=False),
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
    sa.Column("secrets", _Document, nullable=True),
    sa.Column("client_sha256", sa.String(64), nullable=True),
    sa.UniqueConstraint("tenant", "prompt_id", name="queue_prompt"),
    sa.Index("queue_order", "tenant", "claimed", "number", "prompt_id", "client_sha256"),
    sqlite_autoincrement=True,
)
"""Prompts that have not ended. ``counted``: the number came from the counter. ``claimed``: null while pending, else
the place in the order of claiming. ``secrets`` is apart so that no reader of ``document`` can show it; the row, and the
secrets with it, goes when the prompt ends (``secure_delete`` overwrites it in the file). ``client_sha256``: the
client that sent it, if one did; in the index, so that passing over a client's prompts reads no documents."""

history_table = sa.Table(
    "history",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("prompt_id", sa.String(64), nullable=False),
    sa.Column("ended_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("tenant", "prompt_id", name="history_prompt"),
    sa.Index("history_order", "tenant", "sequence", "nbytes"),
    sa.Index("history_created", "tenant", "created_ms", "prompt_id"),
    sqlite_autoincrement=True,
)
"""Prompts that ended, as ComfyUI's history entries."""

counters_table = sa.Table(
    "counters",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("next_number", sa.BigInteger, nullable=False),
)
"""ComfyUI's prompt counter, one per tenant."""

tenants_table = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("removed_ms", sa.BigInteger, nullable=True),
)
"""Tenants. A removed one stays known: removing the last must not bring single-user mode back, which needs no token."""

tokens_table = sa.Table(
    "tokens",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=True),
    sa.Column("used_ms", sa.BigInteger, nullable=True),
)
"""Tenants' tokens by hash. ``scopes``: names with blanks between; ``used_ms``: to ten minutes."""

sessions_table = sa.Table(
    "sessions",
    metadata,
    sa.Column("secret_sha256", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("token_sha256", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("used_ms", sa.BigInteger, nullable=False),
    sa.Column("agent", sa.String(200), nullable=False),
    sa.Index("sessions_token", "token_sha256", "created_ms"),
)
"""Browsers that are logged in: the hash of the cookie, and of the token that was given, without which it is worth
nothing. ``id`` names a session in lists; it proves nothing."""

submissions_table = sa.Table(
    "submissions",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("job_id", sa.String(36), nullable=False),
    sa.Column("idempotency_key", sa.String(255), nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("canceled_ms", sa.BigInteger, nullable=True),
    sa.Column("document", _Document, nullable=True),
    sa.UniqueConstraint("tenant", "job_id", name="submissions_job"),
    sa.UniqueConstraint("tenant", "idempotency_key", name="submissions_key"),
    sa.Index("submissions_order", "tenant", "sequence"),
    sqlite_autoincrement=True,
)
"""Jobs that came through the Comfy API v2: the keys that may not be used again, and (``document``) what was cancelled
before it ran, which neither queue nor history remembers."""

assets_table = sa.Table(
    "assets",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("id", sa.String(36), nullable=False),
    sa.Column("hash", sa.String(64), nullable=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content_type", sa.String(128), nullable=False),
    sa.Column("name", sa.String(512), nullable=False),
    sa.Column("job_id", sa.String(36), nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.Column("accessed_ms", sa.BigInteger, nullable=False),
    sa.Column("idempotency_key", sa.String(255), nullable=True),
    sa.Column("document", _Document, nullable=False),
    sa.UniqueConstraint("tenant", "id", name="assets_id"),
    sa.UniqueConstraint("tenant", "idempotency_key", name="assets_key"),
    sa.Index("assets_hash", "tenant", "hash"),
    sqlite_autoincrement=True,
)
"""Assets: what a tenant uploaded (``hash``: BLAKE3 of a blob that we keep) and what its jobs made (no hash;
``document`` names the file)."""

node_state_table = sa.Table(
    "node_state",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("extension", sa.String(64), primary_key=True),
    sa.Column("node", sa.String(64), primary_key=True),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
)
"""What node instances keep (``node_state.py``): all attributes of one node are one document."""

quota_usage_table = sa.Table(
    "quota_usage",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
)
"""What tenants used within the windows of their quotas (``usage_keeper.py``)."""
