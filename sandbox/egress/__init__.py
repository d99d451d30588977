"""The one way out of a sandbox that has no network: a forward proxy of the host behind a Unix socket.

``decision.py``, ``addresses.py`` and ``hello.py`` decide, without I/O; ``gate.py`` listens for one sandbox,
``conversation.py`` speaks on each of its connections, ``exchange.py`` and ``streams.py`` carry bytes. What was decided
goes through ``attempts.py``; what all gates share is in ``office.py``.
"""

from sandbox.egress.attempts import Attempt, AttemptSink, Verdict, log_attempt, unwatched
from sandbox.egress.builds import RefusedPlaces, index_rules, serve_builds
from sandbox.egress.connect import Connector, DirectConnector, Resolver, SystemResolver
from sandbox.egress.gate import EgressGate, egress_rules, gate_for
from sandbox.egress.limits import EgressLimits, EgressUsed
from sandbox.egress.office import EgressOffice
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
    "gate_for",
    "index_rules",
    "log_attempt",
    "serve_builds",
    "unwatched",
]
