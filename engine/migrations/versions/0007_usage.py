"""What tenants used within their windows: CPU and GPU time, bytes sent and fetched. A restart forgets none of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DOCUMENT = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "quota_usage",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("quota_usage")
