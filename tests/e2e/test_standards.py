"""The services as they run, by the engine's own word, held to Pod Security "restricted" and CIS section 5."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.security.standards import CIS, OF_SERVICE, POD_SECURITY, SERVICE, SERVICES_EXCUSED, violations
from tests.stack import Stack


@pytest.mark.parametrize("service", ["launcher", "host"])
def test_a_running_service_is_what_the_standards_ask_for_or_says_why_not(stack: Stack, service: str) -> None:
    container = stack.compose.execute(f"ps --quiet {service}").decode().strip()
    done = subprocess.run(["docker", "inspect", container], capture_output=True, timeout=60, check=True)
    (found,) = json.loads(done.stdout)
    controls = (*POD_SECURITY, *CIS, *SERVICE, *OF_SERVICE[service])
    assert violations(found, controls, excused=SERVICES_EXCUSED[service]) == {}
