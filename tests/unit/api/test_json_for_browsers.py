"""What a pack may put into an answer, and what a browser gets of it: JSON, and never a key that turns on a page."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import dump_json
from api.messages import dump_json as dump_for_websockets
from policies import LOCAL_TENANT
from tests.unit.api.fakes import PROMPT, FakeEngine

pytestmark = pytest.mark.anyio


def nested(levels: int, inner: Any = 1) -> Any:
    for number in range(levels):
        inner = [inner] if number % 2 else {"a": inner}
    return inner


@pytest.mark.parametrize("levels", [1, 199, 254, 255, 299, 400])
def test_nesting_beyond_what_the_encoder_takes_becomes_a_text_that_says_so(levels: int) -> None:
    said = dump_json(nested(levels))
    assert (b"nested deeper than 200 levels" in said) == (levels > 254)
    assert json.loads(said)


async def test_a_result_that_is_nested_deep_does_not_take_the_history_with_it(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await client.post("/prompt", json={"prompt": PROMPT})
    prompt_id = await engine.run_one(LOCAL_TENANT, {"1": {"text": nested(290)}})
    for path in (
        "/history",
        f"/history/{prompt_id}",
        f"/api/jobs/{prompt_id}",
        f"/ringfence/v1/prompts/{prompt_id}",
    ):
        answer = await client.get(path)
        assert (answer.status_code, "nested deeper" in answer.text) == (200, True), path


@pytest.mark.parametrize(
    "hostile",
    [
        '{"__proto__": {"isAdmin": true}, "a": 1}',
        '{"a": [{"__proto__": null}]}',
        '{"constructor": {"prototype": {"isAdmin": true}}, "a": 1}',
        '{"\\u005f_proto__": {"isAdmin": true}, "a": 1}',
    ],
)
def test_no_key_that_script_takes_for_a_prototype_reaches_a_page(hostile: str) -> None:
    said = dump_json(json.loads(hostile)).decode()
    assert "isAdmin" not in said
    assert '"__proto__":' not in said
    assert json.loads(said).keys() == {"a"}


def test_what_only_looks_like_one_stays() -> None:
    kept = {"constructor": "a name", "prototype": 1, "text": "__proto__", "said": '"__proto__": {}'}
    assert json.loads(dump_json(kept)) == kept
    assert dump_for_websockets is dump_json


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text() | st.sampled_from(["__proto__", "constructor", "prototype"]), inner, max_size=3
        )
    ),
    max_leaves=20,
)


@given(TREES)
def test_whatever_a_tree_holds_it_is_written_as_strict_json(tree: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(dump_json(tree), parse_constant=refuse)
    if isinstance(tree, float) and math.isnan(tree):
        assert read is None
