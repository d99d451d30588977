"""How a route gets at the Comfy API v2's jobs, and under which address its client came."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from api.v2.jobs import Jobs


def jobs_of(connection: HTTPConnection) -> Jobs:
    """The jobs and assets of the application that got this request."""
    return cast("Jobs", connection.app.state.jobs)


def base_of(connection: HTTPConnection) -> str:
    """Scheme, host and port under which the client reached us."""
    return f"{connection.url.scheme}://{connection.url.netloc.rpartition('@')[2]}"


async def _jobs(request: Request) -> Jobs:
    return jobs_of(request)


async def _base(request: Request) -> str:
    return base_of(request)


HaveJobs = Annotated[Jobs, Depends(_jobs)]
Base = Annotated[str, Depends(_base)]
