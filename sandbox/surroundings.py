"""What every sandbox of a manager works with: who starts it, who keeps its tensors, who is told what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox.audit import Entry
from sandbox.audit.record import nowhere
from sandbox.calls import EventSink
from sandbox.egress import EgressOffice
from sandbox.launcher.verbs import Launcher
from sandbox.metering import Metering
from sandbox.node_state import NodeStates
from sandbox.places import Places
from sandbox.resources import ResourceShelf
from sandbox.tensors import TensorStore


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Shared by all of them; none of it is one sandbox's own."""

    launcher: Launcher
    store: TensorStore
    places: Places
    events: EventSink | None
    states: NodeStates | None = None
    resources: ResourceShelf | None = None
    egress: EgressOffice | None = None
    metering: Metering | None = None
    audit: Callable[[Entry], None] = nowhere
