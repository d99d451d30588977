"""How large each history entry is, so that a tenant's history can be bounded in bytes without reading it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("history", sa.Column("nbytes", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE history SET nbytes = LENGTH(document)")
    op.drop_index("history_order", "history")
    op.create_index("history_order", "history", ["tenant", "sequence", "nbytes"])


def downgrade() -> None:
    op.drop_index("history_order", "history")
    op.create_index("history_order", "history", ["tenant", "sequence"])
    op.drop_column("history", "nbytes")
