"""Every route of the OpenAPI document, asked with what it allows and with what it forbids, by callers of every kind.

schemathesis makes the requests from the document itself, so a new route is asked without a line here. What comes back
is what the document says, in form and in status; no answer is a 5xx, and none shows the inside. The seed is fixed;
``HYPOTHESIS_PROFILE=thorough`` looks longer.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.openapi_answers import OPEN
from api.permissions import NEEDS, Need
from engine import Scope
from tests.properties import tried
from tests.unit.api.attacked import WHO, Attacked, attacked

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SEED: Final = 4
#: For each route.
EXAMPLES: Final = tried(2, 80)
_INSIDE: Final = re.compile(r"Traceback|site-packages|/root/|\.py\b.*line \d+|File \"/|sqlalchemy|sqlite3")


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(tmp_path_factory.mktemp("attacked")) as made:
        yield made


@pytest.fixture(scope="module")
def cases(at: Attacked) -> Callable[[GenerationMode], list[list[schemathesis.Case]]]:
    """What is asked of each operation, made once for all who ask it: making takes longer than asking."""
    operations = [
        found.ok() for found in schemathesis.openapi.from_dict(at.app.openapi()).get_all_operations()
    ]

    @functools.cache
    def of(mode: GenerationMode) -> list[list[schemathesis.Case]]:
        return [
            made_for(operation, mode)
            for operation in operations
            # A path or nothing at all: there is no wrong way to write it.
            if mode is not GenerationMode.NEGATIVE or operation.query or operation.body
        ]

    return of


def made_for(operation: Any, mode: GenerationMode) -> list[schemathesis.Case]:
    """Requests of one operation, always the same."""
    made: list[schemathesis.Case] = []

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def make(case: schemathesis.Case) -> None:
        made.append(case)

    try:
        make()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, operation.label  # any JSON at all is allowed there
    return made


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"]
)
@pytest.mark.parametrize("who", WHO)
@pytest.mark.timeout(600)
def test_every_route_answers_what_the_document_says_and_shows_nothing_of_the_inside(
    at: Attacked,
    cases: Callable[[GenerationMode], list[list[schemathesis.Case]]],
    who: str,
    mode: GenerationMode,
) -> None:
    asked = 0
    wrong: list[str] = []
    with requests.Session() as session:
        for made in cases(mode):
            for case in made:
                asked += 1
                wrong.extend(f"{case.as_curl_command()}: {what}" for what in faults(at, session, who, case))
    assert wrong == []
    assert asked >= 50


def faults(at: Attacked, session: requests.Session, who: str, case: schemathesis.Case) -> list[str]:
    """What is wrong with the answer to one request."""
    sent = case.as_transport_kwargs(base_url=at.url, headers=dict(at.headers[who]))
    with session.request(**sent, timeout=60, allow_redirects=False, stream=True) as answer:
        if answer.status_code == 200 and case.path.endswith("/events"):
            return []  # it goes on until we hang up
        answer.content  # noqa: B018 - read while it can be
        said = []
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseExceptionGroup as group:
            said += [
                f"{answer.status_code}: {' '.join(str(error).split())[:400]}" for error in group.exceptions
            ]
        text = answer.text + str(answer.headers)
        if (found := _INSIDE.search(text)) or (who != "operator" and str(at.data) in text):
            said.append(f"{answer.status_code} shows the inside: {found}")
        if (expected := refusal(who, case)) and answer.status_code != expected:
            said.append(f"{answer.status_code} where {expected} was due")
        return said


def refusal(who: str, case: schemathesis.Case) -> int:
    """With which status a caller is refused before anything is looked at; 0 where it is not."""
    if case.path in OPEN or who == "operator":
        return 0
    if who == "anonymous":
        return 401
    need = next(
        by[case.method.upper()] for path, by in NEEDS.items() if re.sub(r":path\}", "}", path) == case.path
    )
    scopes = frozenset(Scope) if who == "every scope" else {Scope(who.removeprefix("scope "))}
    return 403 if need is Need.OPERATOR or not scopes & need.value else 0


def test_a_form_with_every_field_of_the_document_is_what_the_routes_read(at: Attacked) -> None:
    """The document's bodies are written by hand: one of each is taken, so that the attack above gets past the door."""
    every = at.headers["every scope"]
    made = requests.post(f"{at.url}/ringfence/v1/tokens", headers=every, timeout=60,
                         json={"name": "one-more", "scopes": ["run"], "expires_s": 60})  # fmt: skip
    assert made.status_code == 201, made.text
    archive = {"archive": ("pack.tar", tar_of_a_pack(), "application/x-tar")}
    added = requests.post(f"{at.url}/ringfence/v1/extensions", headers=every, files=archive, data={"name": "pack"},
                          timeout=60)  # fmt: skip
    assert added.status_code == 200, added.text
    assert json.loads(added.text.splitlines()[-1])["result"]["name"] == "pack"


def tar_of_a_pack() -> bytes:
    """A directory with one file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        member = tarfile.TarInfo("pack/__init__.py")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"x = 1"))
    return raw.getvalue()
