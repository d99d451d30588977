"""docs/standards.md, made from the tables that the tests hold containers to."""

from __future__ import annotations

from pathlib import Path

from tests.security.standards import (
    BUILD_EXCUSED,
    CIS,
    NOT_OF_A_CONTAINER,
    OF_SERVICE,
    OURS,
    POD_SECURITY,
    SANDBOX_EXCUSED,
    SERVICE,
    SERVICES_EXCUSED,
    Control,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "standards.md"
EXCUSED = {"sandbox": SANDBOX_EXCUSED, **SERVICES_EXCUSED, "build": BUILD_EXCUSED}
SPEC = "`security/test_flags_and_standards.py::test_the_container_of_a_sandbox_satisfies_every_control`"
RUNNING = (
    "`security/test_services_and_builds.py::test_a_sandbox_that_the_launcher_started_satisfies_every_control`"
)
SERVICES = "`e2e/test_standards.py::test_a_running_service_is_what_the_standards_ask_for_or_says_why_not`"
BUILD = "`security/test_services_and_builds.py::test_a_build_without_a_network_satisfies_both_standards`"
FLAGS = "`security/test_flags_and_standards.py::test_a_flag_that_is_taken_away_is_missed`"
LINES = "`security/test_services_and_builds.py::test_a_wall_of_a_service_that_is_taken_away_is_missed`"
HEAD = f"""# Standards that containers are held to

Kubernetes' Pod Security Standards at their level "restricted", section 5 (container runtime) of the CIS Docker
Benchmark, numbered as in its version 1.6, and what Ringfence asks for beyond both. The engine describes each container,
and tests judge its description:

- of a sandbox's spec: {SPEC}
- of a sandbox as the launcher started it, under runc and gVisor: {RUNNING}
- of the services as they run: {SERVICES}
- of a build: {BUILD}

Every flag of a sandbox ({FLAGS}) and every line of a service ({LINES}) is
taken away in turn, and each time a control must fail.

`yes` is checked; a number is an excuse, explained below the tables. An excuse for what holds turns a test red.
This page is made from the tests' own tables: `RINGFENCE_UPDATE_SNAPSHOTS=1 pytest
tests/security/test_standards_page.py`.
"""


def page() -> str:
    """The whole of it."""
    reasons: list[str] = []
    parts = [HEAD]
    for title, controls in (
        ("Pod Security, restricted", POD_SECURITY),
        ("CIS Docker Benchmark, section 5", CIS),
    ):
        parts += [
            f"\n## {title}\n",
            "| control | title | sandbox | launcher | host | build |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for control in controls:
            cells = []
            for who in ("sandbox", "launcher", "host", "build"):
                reason = EXCUSED[who].get(control.id)
                if reason is None:
                    cells.append("yes")
                    continue
                text = f"{control.id}, {who}: {reason}"
                reasons.append(text)
                cells.append(f"no ({len(reasons)})")
            parts.append(f"| {control.id} | {control.title} | {' | '.join(cells)} |")
    parts += ["\nNot of a container:\n", *(f"- {name}: {why}" for name, why in NOT_OF_A_CONTAINER.items())]
    parts += ["\nExcuses:\n", *(f"{number}. {text}" for number, text in enumerate(reasons, 1))]
    beyond: tuple[tuple[str, tuple[Control, ...]], ...] = (
        ("a sandbox", OURS), ("both services", SERVICE),
        *((f"the {name}", found) for name, found in OF_SERVICE.items()),
    )  # fmt: skip
    for whose, controls in beyond:
        parts += [
            f"\n## Beyond both: {whose}\n",
            *(f"- {control.id}: {control.title}" for control in controls),
        ]
    return "\n".join(parts) + "\n"
