"""Several tokens per tenant, sessions of browsers, and tenants that were removed stay known as such."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("issued_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=True),
        sa.Column("used_ms", sa.BigInteger, nullable=True),
    )
    # The one token that a tenant had could do everything that is the tenant's, and still can.
    op.execute(
        "INSERT INTO tokens (tenant, name, token_sha256, scopes, issued_ms) "
        "SELECT name, 'main', token_sha256, 'admin run upload', rotated_ms FROM tenants"
    )
    op.create_table(
        "tenants_0005",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("removed_ms", sa.BigInteger, nullable=True),
    )
    op.execute("INSERT INTO tenants_0005 (name, created_ms) SELECT name, created_ms FROM tenants")
    op.drop_table("tenants")
    op.rename_table("tenants_0005", "tenants")
    op.create_table(
        "sessions",
        sa.Column("secret_sha256", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("used_ms", sa.BigInteger, nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
    )
    op.create_index("sessions_token", "sessions", ["token_sha256", "created_ms"])


def downgrade() -> None:
    op.drop_table("sessions")
    op.create_table(
        "tenants_0004",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("rotated_ms", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO tenants_0004 (name, token_sha256, created_ms, rotated_ms) "
        "SELECT t.name, k.token_sha256, t.created_ms, k.issued_ms FROM tenants t "
        "JOIN tokens k ON k.tenant = t.name AND k.name = 'main' WHERE t.removed_ms IS NULL"
    )
    op.drop_table("tokens")
    op.drop_table("tenants")
    op.rename_table("tenants_0004", "tenants")
