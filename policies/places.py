"""Where an operator writes what an extension of a tenant may use, in the words of errors."""

from __future__ import annotations

from collections.abc import Callable

from policies.names import LOCAL_TENANT, ExtensionName, TenantId

Where = Callable[[ExtensionName, TenantId], str]


def usual_place(extension: ExtensionName, tenant: TenantId) -> str:
    """Where such a file lies when nothing is known of what is there: `policies/blur.yaml`."""
    return f"policies/{own_part(extension, tenant)}"


def own_part(extension: ExtensionName, tenant: TenantId) -> str:
    """The same below the directory of policies."""
    return f"{extension}.yaml" if tenant == LOCAL_TENANT else f"tenants/{tenant}/{extension}.yaml"
