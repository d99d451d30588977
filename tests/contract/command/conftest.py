"""The command in processes of its own, against the application on a stand-in engine behind a real server."""

from tests.unit.api.conftest import app, engine, media, settings, start

__all__ = ["app", "engine", "media", "settings", "start"]
