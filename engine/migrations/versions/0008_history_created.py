"""When a prompt that ended was queued, so that jobs can be listed by age wherever they are, without reading them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("history", sa.Column("created_ms", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE history SET created_ms = ended_ms")  # the nearest that is known of them
    op.create_index("history_created", "history", ["tenant", "created_ms", "prompt_id"])


def downgrade() -> None:
    op.drop_index("history_created", "history")
    op.drop_column("history", "created_ms")
