"""``/object_info`` as bytes: written and compressed once for each state of a tenant's catalogue.

What is remembered is found by the catalogue itself, which the engine replaces whenever anything in it changes: there is
no time after which an answer is old, and nobody has to say that one is. Each tenant has its own; the guard has checked
who asks before this is reached.

Compressing is safe here: an answer holds what packs declare and the names of the tenant's files, never a token, a
cookie or anything of the request, so its length tells a third party nothing about a secret.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import Response

from api.errors import OrjsonResponse, dump_json
from api.files import is_unchanged
from engine import NodeType, object_info
from policies import TenantId

KEPT_BYTES: Final = 128 * 2**20
"""All answers that are remembered, of all tenants; the one that was asked for longest ago goes first."""
_SMALL: Final = 1_400
"""Bytes that fit one packet are sent as they are."""
_HEADERS: Final = {"Vary": "Accept-Encoding, Authorization, Cookie", "Cache-Control": "private, no-cache"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One catalogue as it is sent."""

    types: Mapping[str, NodeType]
    """What it was made of; held, so that no other catalogue can be taken for it."""
    plain: bytes
    packed: bytes | None
    etag: str

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.plain) + len(self.packed or b"")


class Catalogues:
    """The last answer of each tenant."""

    def __init__(self, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._answers: OrderedDict[TenantId, Answer] = OrderedDict()
        self._locks: dict[TenantId, anyio.Lock] = {}

    async def response(self, tenant: TenantId, types: Mapping[str, NodeType], asked: Headers) -> Response:
        """The catalogue, compressed where the client reads that; 304 where it has it already."""
        answer = await self._answer(tenant, types)
        headers = {**_HEADERS, "ETag": answer.etag}
        if asked.get("if-none-match") is not None and is_unchanged(asked, {"etag": answer.etag}):
            return Response(status_code=304, headers=headers)
        body = answer.plain
        if answer.packed is not None and takes_gzip(asked.get("accept-encoding", "")):
            body, headers["Content-Encoding"] = answer.packed, "gzip"
        return Response(body, headers=headers, media_type=OrjsonResponse.media_type)

    async def _answer(self, tenant: TenantId, types: Mapping[str, NodeType]) -> Answer:
        async with self._locks.setdefault(tenant, anyio.Lock()):  # who comes meanwhile gets the same
            known = self._answers.get(tenant)
            if known is None or known.types is not types:
                known = await anyio.to_thread.run_sync(write, types)
                self._answers[tenant] = known
            self._answers.move_to_end(tenant)
            while sum(answer.size for answer in self._answers.values()) > self._kept_bytes:
                self._locks.pop(self._answers.popitem(last=False)[0], None)
            return known


def write(types: Mapping[str, NodeType]) -> Answer:
    """The answer for one catalogue. Blocks."""
    plain = dump_json(object_info(types))
    # The same whatever the encoding, hence weak; mtime: the same catalogue is the same bytes.
    etag = f'W/"{blake2b(plain, digest_size=16).hexdigest()}"'
    packed = gzip.compress(plain, compresslevel=5, mtime=0) if len(plain) > _SMALL else None
    return Answer(types, plain, packed, etag)


def takes_gzip(accepted: str) -> bool:
    """Whether an ``Accept-Encoding`` names gzip, or everything, and does not rule it out."""
    weights: dict[str, float] = {}
    for item in accepted.split(","):
        coding, *parameters = (part.strip() for part in item.lower().split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        weights[coding] = weight
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
