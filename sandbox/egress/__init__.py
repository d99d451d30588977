"""The one way out of a sandbox that has no network: a forward proxy of the host behind a Unix socket.

``decision.py``, ``addresses.py`` and ``hello.py`` decide, without I/O; ``gate.py`` listens for one sandbox and owns
its connections; ``exchange.py`` and ``tunnel.py`` carry bytes. What was decided goes through ``attempts.py``.
"""

from sandbox.egress.attempts import Attempt, AttemptSink, Verdict, log_attempt, unwatched
from sandbox.egress.builds import RefusedPlaces, index_rules, serve_builds
from sandbox.egress.connect import Connector, DirectConnector, Resolver, SystemResolver
from sandbox.egress.gate import EgressGate, EgressOffice, egress_rules
from sandbox.egress.limits import EgressLimits, EgressUsed
from sandbox.egress.upstream import UpstreamProxyConnector
from sandbox.egress.vault import Secret, Vault

__all__ = [
    "Attempt",
    "AttemptSink",
    "Connector",
    "DirectConnector",
    "EgressGate",
    "EgressLimits",
    "EgressOffice",
    "EgressUsed",
    "RefusedPlaces",
    "Resolver",
    "Secret",
    "SystemResolver",
    "UpstreamProxyConnector",
    "Vault",
    "Verdict",
    "egress_rules",
    "index_rules",
    "log_attempt",
    "serve_builds",
    "unwatched",
]
