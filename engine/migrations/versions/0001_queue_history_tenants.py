"""Queue, history, counters and tenants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROWID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
DOCUMENT = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "queue",
        sa.Column("sequence", ROWID, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("prompt_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Double, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("claimed", sa.BigInteger, nullable=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("secrets", DOCUMENT, nullable=True),
        sa.UniqueConstraint("tenant", "prompt_id", name="queue_prompt"),
        sqlite_autoincrement=True,
    )
    op.create_index("queue_order", "queue", ["tenant", "claimed", "number", "prompt_id"])
    op.create_table(
        "history",
        sa.Column("sequence", ROWID, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("prompt_id", sa.String(64), nullable=False),
        sa.Column("ended_ms", sa.BigInteger, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.UniqueConstraint("tenant", "prompt_id", name="history_prompt"),
        sqlite_autoincrement=True,
    )
    op.create_index("history_order", "history", ["tenant", "sequence"])
    op.create_table(
        "counters",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("next_number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("rotated_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("tenants", "counters", "history", "queue"):
        op.drop_table(table)
