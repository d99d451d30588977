"""Assets, and jobs that came through the Comfy API v2."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002_assets"
down_revision = "0001"
branch_labels = None
depends_on = None

ROWID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
DOCUMENT = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "submissions",
        sa.Column("sequence", ROWID, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("canceled_ms", sa.BigInteger, nullable=True),
        sa.Column("document", DOCUMENT, nullable=True),
        sa.UniqueConstraint("tenant", "job_id", name="submissions_job"),
        sa.UniqueConstraint("tenant", "idempotency_key", name="submissions_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("submissions_order", "submissions", ["tenant", "sequence"])
    op.create_table(
        "assets",
        sa.Column("sequence", ROWID, primary_key=True, autoincrement=True),
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
        sa.Column("document", DOCUMENT, nullable=False),
        sa.UniqueConstraint("tenant", "id", name="assets_id"),
        sa.UniqueConstraint("tenant", "idempotency_key", name="assets_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("assets_hash", "assets", ["tenant", "hash"])


def downgrade() -> None:
    for table in ("assets", "submissions"):
        op.drop_table(table)
