"""/object_info: written once, compressed for who reads that, not sent twice, and each tenant's its own."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import httpx2
import pytest
from starlette.datastructures import Headers

from api.catalogue import Catalogues, takes_gzip
from engine import NodeType
from policies import LOCAL_TENANT, TenantId
from tests.unit.api.fakes import FakeEngine, node_type

pytestmark = pytest.mark.anyio

GZIP = {"accept-encoding": "gzip"}


def many(prefix: str = "Node", count: int = 300) -> dict[str, NodeType]:
    return {f"{prefix}{number}": node_type(f"{prefix}{number}") for number in range(count)}


async def test_a_client_that_has_the_catalogue_is_told_so_until_it_changes(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    first = await client.get("/object_info")
    assert first.status_code == 200
    known = {"if-none-match": first.headers["etag"]}
    for path in ("/object_info", "/api/object_info"):
        again = await client.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    engine.catalogues[LOCAL_TENANT] = {"Blur": node_type("Blur"), "Glow": node_type("Glow")}
    changed = await client.get("/object_info", headers=known)
    assert changed.status_code == 200
    assert list(changed.json()) == ["Blur", "Glow"]
    assert changed.headers["etag"] != first.headers["etag"]
    assert (await client.get("/object_info", headers={"if-none-match": '"x"'})).status_code == 200


async def test_the_same_declarations_have_the_same_tag_whoever_made_the_catalogue_anew(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    tag = (await client.get("/object_info")).headers["etag"]
    engine.catalogues[LOCAL_TENANT] = {"Blur": node_type("Blur")}  # after a restart, say
    assert (await client.get("/object_info", headers={"if-none-match": tag})).status_code == 304


async def test_the_catalogue_is_compressed_for_who_reads_that_and_is_the_same(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.catalogues[LOCAL_TENANT] = many()
    plain = await client.get("/object_info", headers={"accept-encoding": "identity"})
    packed = await client.get("/object_info", headers=GZIP)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 5
    assert packed.content == plain.content  # the client unpacks
    assert packed.headers["content-type"] == plain.headers["content-type"]
    assert packed.headers["etag"] == plain.headers["etag"]
    assert {"Accept-Encoding", "Authorization", "Cookie"} == set(packed.headers["vary"].split(", "))
    assert packed.headers["cache-control"] == "private, no-cache"


async def test_a_small_catalogue_is_sent_as_it_is(client: httpx2.AsyncClient) -> None:
    assert "content-encoding" not in (await client.get("/object_info", headers=GZIP)).headers


async def test_a_tenant_is_never_sent_anothers_catalogue(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], engine: FakeEngine
) -> None:
    a, b = studio
    engine.catalogues[TenantId("a")], engine.catalogues[TenantId("b")] = many("Mine"), many("Yours")
    for _ in range(2):
        of_a, of_b = await a.get("/object_info"), await b.get("/object_info")
        assert {name[:4] for name in of_a.json()} == {"Mine"}
        assert {name[:5] for name in of_b.json()} == {"Yours"}
        crossed = await b.get("/object_info", headers={"if-none-match": of_a.headers["etag"]})
        assert crossed.status_code == 200


async def test_a_tag_opens_nothing_to_who_may_not_read_the_catalogue(
    app: object, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
) -> None:
    a, _ = studio
    tag = (await a.get("/object_info")).headers["etag"]
    known = {"if-none-match": tag, "authorization": "Bearer nobody-knows-this-token-0123456789"}
    assert (await a.get("/object_info", headers=known)).status_code == 401


async def test_one_state_of_a_catalogue_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from api import catalogue

    written: list[Mapping[str, NodeType]] = []
    real = catalogue.write

    def counting(types: Mapping[str, NodeType]) -> catalogue.Answer:
        written.append(types)
        return real(types)

    monkeypatch.setattr(catalogue, "write", counting)
    catalogues, types = Catalogues(), many()
    for _ in range(3):
        response = await catalogues.response(LOCAL_TENANT, types, Headers(GZIP))
    assert len(written) == 1
    assert b'"Node7"' in gzip.decompress(response.body)
    await catalogues.response(LOCAL_TENANT, many("New"), Headers())
    assert len(written) == 2


async def test_what_is_remembered_of_all_tenants_is_bounded() -> None:
    types = many()
    size = len((await Catalogues().response(LOCAL_TENANT, types, Headers())).body)
    catalogues = Catalogues(kept_bytes=3 * size)
    for number in range(10):
        answer = await catalogues.response(TenantId(f"t{number}"), types, Headers())
        assert len(answer.body) == size
    assert sum(kept.size for kept in catalogues._answers.values()) <= 3 * size
    assert len(catalogues._locks) <= 3
    too_large = Catalogues(kept_bytes=size // 2)
    assert len((await too_large.response(LOCAL_TENANT, types, Headers())).body) == size
    assert not too_large._answers


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=nonsense", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_for_who_names_it_and_does_not_rule_it_out(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) is takes
