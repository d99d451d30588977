"""What an extension may use: names, policy files, effective policies, and the root of all errors.

This is the lowest room: it imports nothing of the project, and knows nothing of containers, HTTP or graphs.
Enter by this door; the modules behind it may change.
"""

from policies.difference import Change, asks_more, compare
from policies.egress import Network, Secret
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
from policies.learned_paths import place_of
from policies.learned_policy import LearnedPolicy, learn_policy
from policies.learned_text import Basis
from policies.model import EffectivePolicy, Source
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
from policies.network import Destination, parse_destination, plain_host, why_not_public
from policies.observed import Claims, Observed, Reached
from policies.path_entries import HostPath, TenantPath
from policies.paths import open_beneath, resolve_beneath
from policies.places import Where, usual_place
from policies.quotas import QUOTA_KEYS, Quotas, built_in_quotas
from policies.seccomp import seccomp_profile
from policies.store import PolicyStore
from policies.text import safe_text
from policies.units import format_bytes, format_duration

__all__ = [
    "CORE_EXTENSION",
    "LOCAL_TENANT",
    "QUOTA_KEYS",
    "Basis",
    "CeilingError",
    "Change",
    "Claims",
    "Destination",
    "EffectivePolicy",
    "ExtensionName",
    "HostPath",
    "LearnedPolicy",
    "NameInvalidError",
    "Network",
    "NodeId",
    "Observed",
    "PathEscapeError",
    "PolicyError",
    "PolicyStore",
    "PolicySyntaxError",
    "Problem",
    "PromptId",
    "Quotas",
    "Reached",
    "RingfenceError",
    "Row",
    "SandboxGroup",
    "SandboxId",
    "Secret",
    "Source",
    "TenantId",
    "TenantPath",
    "Where",
    "asks_more",
    "built_in_quotas",
    "compare",
    "explain",
    "format_bytes",
    "format_duration",
    "learn_policy",
    "open_beneath",
    "own_folder",
    "parse_destination",
    "parse_extension_name",
    "parse_node_id",
    "parse_prompt_id",
    "parse_sandbox_group",
    "parse_sandbox_id",
    "parse_tenant_id",
    "place_of",
    "plain_host",
    "resolve_beneath",
    "safe_text",
    "seccomp_profile",
    "suggest_extension_name",
    "usual_place",
    "why_not_public",
]
