"""Walls and the door in them: starts sandboxes, talks to their workers, keeps their tensors.

Enter by this door; the modules behind it may change. ``launcher/`` alone talks to the container engine, in a process of
its own: its door is ``launcher/process.py``, and what the host has of it is a client.
"""

from sandbox.accounts import StoreLimits, StoreUsage
from sandbox.advisories import AdvisoryDatabase, AdvisoryDatabaseError, DatabaseFacts, Finding
from sandbox.audit import (
    AuditEvent,
    AuditLimits,
    AuditReader,
    AuditUnavailableError,
    AuditUnreadableError,
    AuditValue,
    AuditWriter,
    Entry,
    Filter,
    Outcome,
    Record,
    cursor_text,
    parse_cursor,
)
from sandbox.audit.denial import denial
from sandbox.bills import MEDIA_TYPE as BILL_MEDIA_TYPE
from sandbox.bills import Subject, make_bill
from sandbox.calls import (
    EventSink,
    ExpandedCall,
    ExpandedNode,
    HttpRequest,
    HttpResponse,
    LoadedExtension,
    NodeCall,
    NodeDescription,
    NodeReplacement,
    NodeResult,
    PackEvent,
    PackSocket,
    Progress,
    ProgressSink,
    Session,
    SocketClosed,
    SocketRequest,
    Validator,
    Value,
)
from sandbox.egress import (
    Attempt,
    EgressLimits,
    EgressOffice,
    EgressUsed,
    RefusedPlaces,
    UpstreamProxyConnector,
    Vault,
    Verdict,
    index_rules,
    log_attempt,
    serve_builds,
)
from sandbox.environment_locks import KeptLock
from sandbox.environments import Environments
from sandbox.errors import (
    CallTimeoutError,
    EndedError,
    HandleNotPortableError,
    LoadFailedError,
    NodeInterruptedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuarantinedError,
    QuotaError,
    RouteBusyError,
    RouteRefusedError,
    RouteTimeoutError,
    RuntimeRefusedError,
    SandboxError,
    StartError,
    WatchedError,
)
from sandbox.extension_source import ExtensionFiles, ExtensionSource
from sandbox.fast_paths import TAKEN, FastPath, FastPathError, parse_fast_paths, take_fast_paths, takes
from sandbox.huge_pages import collapse_memory
from sandbox.huge_pages import page_size as huge_page_size
from sandbox.inventory import Inventory
from sandbox.launcher.about import LauncherFacts, ask_launcher
from sandbox.launcher.build_verb import BUILDS, INDEX_ONLY, BuildSettings, IndexSettings
from sandbox.launcher.child import BegunLauncher
from sandbox.launcher.child import child as launcher_child
from sandbox.launcher.client import LauncherClient
from sandbox.launcher.self_test_record import KEPT_AS as SELF_TEST_FILE
from sandbox.launcher.self_test_record import read_kept
from sandbox.launcher.self_test_verdict import refused_flag
from sandbox.launcher.settings import LaunchSettings
from sandbox.launcher.verbs import Launcher
from sandbox.logbook import LogLine
from sandbox.manager import ManagerLimits, SandboxManager
from sandbox.manifests import Declared, read_declared
from sandbox.node_state import MAX_STATE, MAX_STATE_NAMES, NodeStates, StateHolder
from sandbox.overview import SandboxInfo, SandboxState
from sandbox.pack_toml import parse_toml
from sandbox.patience import patiently, remove_tree
from sandbox.places import Places
from sandbox.rates import Allowance
from sandbox.records import record
from sandbox.shares import Share
from sandbox.sockets import MESSAGE_TO_PACK
from sandbox.spare_keeper import PoolState, default_size
from sandbox.tensors import TensorStore
from sandbox.trees import tree_size, tree_stamp
from sandbox.turns import Turn
from sandbox.watching import Watch

__all__ = [
    "BILL_MEDIA_TYPE",
    "BUILDS",
    "INDEX_ONLY",
    "MAX_STATE",
    "MAX_STATE_NAMES",
    "MESSAGE_TO_PACK",
    "SELF_TEST_FILE",
    "TAKEN",
    "AdvisoryDatabase",
    "AdvisoryDatabaseError",
    "Allowance",
    "Attempt",
    "AuditEvent",
    "AuditLimits",
    "AuditReader",
    "AuditUnavailableError",
    "AuditUnreadableError",
    "AuditValue",
    "AuditWriter",
    "BegunLauncher",
    "BuildSettings",
    "CallTimeoutError",
    "DatabaseFacts",
    "Declared",
    "EgressLimits",
    "EgressOffice",
    "EgressUsed",
    "EndedError",
    "Entry",
    "Environments",
    "EventSink",
    "ExpandedCall",
    "ExpandedNode",
    "ExtensionFiles",
    "ExtensionSource",
    "FastPath",
    "FastPathError",
    "Filter",
    "Finding",
    "HandleNotPortableError",
    "HttpRequest",
    "HttpResponse",
    "IndexSettings",
    "Inventory",
    "KeptLock",
    "LaunchSettings",
    "Launcher",
    "LauncherClient",
    "LauncherFacts",
    "LoadFailedError",
    "LoadedExtension",
    "LogLine",
    "ManagerLimits",
    "NodeCall",
    "NodeDescription",
    "NodeInterruptedError",
    "NodeRaisedError",
    "NodeReplacement",
    "NodeResult",
    "NodeStates",
    "Outcome",
    "PackEvent",
    "PackSocket",
    "Places",
    "PoolState",
    "Progress",
    "ProgressSink",
    "ProtocolViolationError",
    "QuarantinedError",
    "QuotaError",
    "Record",
    "RefusedPlaces",
    "RouteBusyError",
    "RouteRefusedError",
    "RouteTimeoutError",
    "RuntimeRefusedError",
    "SandboxError",
    "SandboxInfo",
    "SandboxManager",
    "SandboxState",
    "Session",
    "Share",
    "SocketClosed",
    "SocketRequest",
    "StartError",
    "StateHolder",
    "StoreLimits",
    "StoreUsage",
    "Subject",
    "TensorStore",
    "Turn",
    "UpstreamProxyConnector",
    "Validator",
    "Value",
    "Vault",
    "Verdict",
    "Watch",
    "WatchedError",
    "ask_launcher",
    "collapse_memory",
    "cursor_text",
    "default_size",
    "denial",
    "huge_page_size",
    "index_rules",
    "launcher_child",
    "log_attempt",
    "make_bill",
    "parse_cursor",
    "parse_fast_paths",
    "parse_toml",
    "patiently",
    "read_declared",
    "read_kept",
    "record",
    "refused_flag",
    "remove_tree",
    "serve_builds",
    "take_fast_paths",
    "takes",
    "tree_size",
    "tree_stamp",
]
