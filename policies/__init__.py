"""What an extension may use: names, policy files, effective policies, and the root of all errors.

This is the lowest room: it imports nothing of the project, and knows nothing of containers, HTTP or graphs.
Enter by this door; the modules behind it may change.
"""

from policies.errors import (
    CeilingError,
    NameInvalidError,
    PathEscapeError,
    PolicyError,
    PolicySyntaxError,
    Problem,
    RingfenceError,
)
from policies.explanation import Row, explain
from policies.model import EffectivePolicy, HostPath, Source, TenantPath
from policies.names import (
    CORE_EXTENSION,
    LOCAL_TENANT,
    ExtensionName,
    NodeId,
    PromptId,
    SandboxGroup,
    SandboxId,
    TenantId,
    own_folder,
    parse_extension_name,
    parse_node_id,
    parse_prompt_id,
    parse_sandbox_group,
    parse_sandbox_id,
    parse_tenant_id,
    suggest_extension_name,
)
from policies.paths import open_beneath, resolve_beneath
from policies.quotas import QUOTA_KEYS, Quotas, built_in_quotas
from policies.seccomp import seccomp_profile
from policies.store import PolicyStore
from policies.text import safe_text
from policies.units import format_bytes, format_duration

__all__ = [
    "CORE_EXTENSION",
    "LOCAL_TENANT",
    "QUOTA_KEYS",
    "CeilingError",
    "EffectivePolicy",
    "ExtensionName",
    "HostPath",
    "NameInvalidError",
    "NodeId",
    "PathEscapeError",
    "PolicyError",
    "PolicyStore",
    "PolicySyntaxError",
    "Problem",
    "PromptId",
    "Quotas",
    "RingfenceError",
    "Row",
    "SandboxGroup",
    "SandboxId",
    "Source",
    "TenantId",
    "TenantPath",
    "built_in_quotas",
    "explain",
    "format_bytes",
    "format_duration",
    "open_beneath",
    "own_folder",
    "parse_extension_name",
    "parse_node_id",
    "parse_prompt_id",
    "parse_sandbox_group",
    "parse_sandbox_id",
    "parse_tenant_id",
    "resolve_beneath",
    "safe_text",
    "seccomp_profile",
    "suggest_extension_name",
]
