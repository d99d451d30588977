"""Where a tenant's files lie; said here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from policies import TenantId

TENANT_DIRECTORIES = ("input", "output", "temp", "user/default", "models", "assets")
"""What a tenant's directory holds. The first three are ComfyUI's file types; ``default`` is its only user; ``assets``
are contents by hash, which no sandbox sees."""


def tenant_directory(data_dir: Path, tenant: TenantId) -> Path:
    """Root of a tenant's files."""
    return data_dir / "tenants" / tenant


def prepare_tenant_directory(data_dir: Path, tenant: TenantId) -> Path:
    """Create the tenant's directories where they are missing and return the root."""
    root = tenant_directory(data_dir, tenant)
    for name in TENANT_DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root
