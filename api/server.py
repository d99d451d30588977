"""Runs the application in uvicorn, with the limits that belong below ASGI.

The lifespan is entered here and not by uvicorn: a failed start is then an error with a hint instead of a logged
traceback, and the port is known to be ours before anything is built.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from fastapi import FastAPI

from api.app import create_app
from api.heap import move_when_settled
from api.settings import Settings
from api.slow_clients import bounded_by
from api.v2.jobs import Jobs
from api.websocket_pace import paced_by
from api.wide_sockets import WideSocketProtocol
from api.wiring import wire
from policies import RingfenceError
from sandbox import BegunLauncher, FastPath, parse_fast_paths, take_fast_paths, takes

# A client's feature flags are small; routes of packs ask for more (wide_sockets.py).
_WEBSOCKET_MESSAGE = 64 * 1024
_SWITCH_S = 0.00002
"""For how long a thread computes while another wants to. A commit's thread wants to for two short moments, and a small
prompt waits for them: with Python's 5 ms for most of its time, with 0.5 ms for a seventh. Two threads that compute for
long lose up to half to each other so; here few do, and the event loop has its turn again sooner."""
_GARBAGE = (2_000, 200, 50)
"""Objects, and rounds, after which the collector looks for cycles, while nobody is served: a ms for this many, 10 to 18
for ten times as many. With Python's own (700, 10, 10) a prompt of 10,000 nodes spends a fifth of its time on looking
through nodes that are all in use; so the later rounds, which look at what stayed, are seldom."""


class ListenError(RingfenceError):
    """The address cannot be listened on."""

    code = "listen-failed"


def run_server(settings: Settings, launcher: BegunLauncher | None = None) -> None:
    """Serve until a signal ends it; ``launcher`` was begun for this already.

    Raises:
        RingfenceError: the installation cannot start; says what to do.
    """
    take_fast_paths(parse_fast_paths(settings.fast_paths))
    if takes(FastPath.SHORT_TURNS):
        sys.setswitchinterval(_SWITCH_S)
    if takes(FastPath.SELDOM_COLLECTIONS):
        gc.set_threshold(*_GARBAGE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, launcher))


def spare_the_collector() -> None:
    """Take what is here to stay out of the garbage collector's sight, as the modules are (``cli/loading.py``).

    A full collection looks at every object, and nobody is served meanwhile: 100 to 200 ms over what never goes; a few
    ms over what requests made.
    """
    gc.collect()
    gc.freeze()


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the application is served; its lifespan is the caller's."""
    return uvicorn.Config(
        app,
        loop="none",
        http=bounded_by(settings),
        ws=paced_by(settings, WideSocketProtocol),
        ws_max_size=_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=settings.max_header_bytes + settings.max_url_bytes + 4096,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_s / 4)),
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
    )


class Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would end the process before the lifespan does."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; answers that would never end by themselves (event streams) end first."""
        jobs = getattr(getattr(self.config.app, "state", None), "jobs", None)
        if isinstance(jobs, Jobs):
            jobs.leave()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ``_run``'s."""
        yield


async def _run(settings: Settings, launcher: BegunLauncher | None) -> None:
    with _listen(settings) as listener:
        app = create_app(settings, wiring=lambda settings: wire(settings, launcher))
        server = Server(server_config(app, settings))
        with _stopped_by_signals(server):
            async with app.router.lifespan_context(app):
                spare_the_collector()
                move_when_settled()
                await server.serve(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.listen, settings.port))
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {settings.listen} port {settings.port}: {error.strerror}",
            hint="set RINGFENCE_PORT (or --port) to a free one, RINGFENCE_LISTEN to an address of this machine",
        ) from None
    return listener


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """The first signal stops in order, from start-up on; the second ends the process as signals do."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        server.should_exit = True
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in signals:
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
