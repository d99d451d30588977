"""Which client sent a prompt, so that its prompts run one after another."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ORDER = ["tenant", "claimed", "number", "prompt_id"]


def upgrade() -> None:
    # Prompts that wait while this runs have no client: they wait for nobody.
    op.add_column("queue", sa.Column("client_sha256", sa.String(64), nullable=True))
    op.drop_index("queue_order", "queue")
    op.create_index("queue_order", "queue", [*ORDER, "client_sha256"])


def downgrade() -> None:
    op.drop_index("queue_order", "queue")
    op.create_index("queue_order", "queue", ORDER)
    op.drop_column("queue", "client_sha256")
