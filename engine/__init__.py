"""The engine room: validates prompts, decides what runs when, keeps queue, history and extensions.

Enter by this door (or ``engine.events`` and ``engine.errors``, which are data); the modules behind it may change.
"""

from engine.assets import (
    Asset,
    Assets,
    AssetsFullError,
    AssetUnknownError,
    FileRef,
    NewAsset,
    output_asset_id,
)
from engine.cache import CacheMode
from engine.database import Database, DatabaseError
from engine.dispatcher import EngineLimits
from engine.engine import Counts, Engine, QueueItem, QueueSnapshot
from engine.errors import (
    DuplicatePromptError,
    EngineClosedError,
    EngineError,
    ExpansionError,
    NodeFailedError,
    NodeInputError,
    NodeOutputError,
    PromptInvalidError,
    QueueFullError,
)
from engine.extension_asks import ANYTHING, Consent, Difference
from engine.extension_errors import UpdateAsksMoreError
from engine.extension_files import SourceLimits
from engine.extension_pins import check_source, parse_pin
from engine.extension_supply import Audit, Verified
from engine.extensions import (
    ExtensionInfo,
    ExtensionRegistry,
    GitSource,
    Origin,
    PackFiles,
    parse_source,
)
from engine.job_list import JobList, JobPlace
from engine.known_tenants import Tenant
from engine.learning import Learner, Lesson, NothingToLearnError, Trial
from engine.media import Media, MediaBusyError, MediaRefusedError, PreviewWish
from engine.node_state import NodeStateStore, StateLimits
from engine.prompt import PromptLimits, PromptRequest, Submitted
from engine.queue import SqlStorage
from engine.quota_errors import QuotaExceededError, RateQuotaError, SizeQuotaError, SpaceQuotaError
from engine.quotas import Maxima, QuotaBook
from engine.registry import NodeType, NodeTypes, object_info
from engine.sessions import Session, SessionStore
from engine.storage import NewPrompt, QueuedPrompt, Storage
from engine.streams import EventStream
from engine.submissions import KeyReusedError, Submission, Submissions
from engine.tenant_directories import prepare_tenant_directory, tenant_directory
from engine.tenant_removal import Removal, remove_tenant
from engine.tenants import TenantExistsError, TenantRegistry, TenantUnknownError
from engine.tokens import (
    ALL_SCOPES,
    FIRST_TOKEN,
    Scope,
    Token,
    TokenError,
    TokenExistsError,
    TokenUnknownError,
    hash_secret,
    parse_scopes,
    parse_token_name,
)
from engine.usage_keeper import UsageKeeper

__all__ = [
    "ALL_SCOPES",
    "ANYTHING",
    "FIRST_TOKEN",
    "Asset",
    "AssetUnknownError",
    "Assets",
    "AssetsFullError",
    "Audit",
    "CacheMode",
    "Consent",
    "Counts",
    "Database",
    "DatabaseError",
    "Difference",
    "DuplicatePromptError",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "EngineLimits",
    "EventStream",
    "ExpansionError",
    "ExtensionInfo",
    "ExtensionRegistry",
    "FileRef",
    "GitSource",
    "JobList",
    "JobPlace",
    "KeyReusedError",
    "Learner",
    "Lesson",
    "Maxima",
    "Media",
    "MediaBusyError",
    "MediaRefusedError",
    "NewAsset",
    "NewPrompt",
    "NodeFailedError",
    "NodeInputError",
    "NodeOutputError",
    "NodeStateStore",
    "NodeType",
    "NodeTypes",
    "NothingToLearnError",
    "Origin",
    "PackFiles",
    "PreviewWish",
    "PromptInvalidError",
    "PromptLimits",
    "PromptRequest",
    "QueueFullError",
    "QueueItem",
    "QueueSnapshot",
    "QueuedPrompt",
    "QuotaBook",
    "QuotaExceededError",
    "RateQuotaError",
    "Removal",
    "Scope",
    "Session",
    "SessionStore",
    "SizeQuotaError",
    "SourceLimits",
    "SpaceQuotaError",
    "SqlStorage",
    "StateLimits",
    "Storage",
    "Submission",
    "Submissions",
    "Submitted",
    "Tenant",
    "TenantExistsError",
    "TenantRegistry",
    "TenantUnknownError",
    "Token",
    "TokenError",
    "TokenExistsError",
    "TokenUnknownError",
    "Trial",
    "UpdateAsksMoreError",
    "UsageKeeper",
    "Verified",
    "check_source",
    "hash_secret",
    "object_info",
    "output_asset_id",
    "parse_pin",
    "parse_scopes",
    "parse_source",
    "parse_token_name",
    "prepare_tenant_directory",
    "remove_tenant",
    "tenant_directory",
]
