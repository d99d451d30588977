"""What node instances keep."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None

DOCUMENT = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "node_state",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("extension", sa.String(64), primary_key=True),
        sa.Column("node", sa.String(64), primary_key=True),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("node_state")
