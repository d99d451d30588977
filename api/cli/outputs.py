"""The files that a prompt made: listing them, and fetching them into a directory of the user's.

Names come from a pack: only their last component is used, and never one that would hide or replace a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from api.cli.client import Server, failure_of
from api.cli.failure import Failure, Status

File = dict[str, Any]


def files_in(outputs: dict[str, Any], server: Server) -> list[File]:
    """Every file that the outputs name, with the node it came from and its URL."""
    found: list[File] = []
    for node_id, ui in outputs.items():
        for kind, items in ui.items() if isinstance(ui, dict) else ():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and isinstance(item.get("filename"), str):
                    place = {key: str(item.get(key) or "") for key in ("filename", "subfolder")}
                    place["type"] = str(item.get("type") or "output")
                    found.append(
                        {
                            "node_id": node_id,
                            "kind": kind,
                            **place,
                            "url": f"{server.url}/view?{urlencode(place)}",
                        }
                    )
    return found


def texts_in(outputs: dict[str, Any]) -> list[dict[str, str]]:
    """Text that nodes show."""
    return [
        {"node_id": node_id, "text": item}
        for node_id, ui in outputs.items()
        if isinstance(ui, dict)
        for item in ui.get("text") or ()
        if isinstance(item, str)
    ]


def add_local_paths(files: list[File], data_dir: str | None, tenant: str) -> None:
    """Name the file on this machine, where the server's data directory is this machine's too."""
    if not data_dir:
        return
    for file in files:
        path = Path(data_dir, "tenants", tenant, file["type"], file["subfolder"], file["filename"])
        if ".." not in path.parts and path.is_file():
            file["path"] = str(path)


def download(files: list[File], directory: Path, server: Server) -> None:
    """Fetch the files; each gets the path it was stored at.

    Raises:
        Failure: the directory cannot be written, or the server does not give a file.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(Status.USAGE, f"{directory}: {error.strerror}") from None
    with server.translated(), server.client() as client:
        for file in files:
            with client.stream("GET", file["url"]) as response:
                if response.status_code != 200:
                    raise failure_of(response.status_code, response.read())
                descriptor, path = _create(directory, file["filename"])
                with os.fdopen(descriptor, "wb") as stream:
                    for chunk in response.iter_bytes():
                        stream.write(chunk)
            file["path"] = str(path)


def _create(directory: Path, name: str) -> tuple[int, Path]:
    plain = "".join(
        char if char.isprintable() and char not in '\\/:*?"<>|' else "_" for char in name.rsplit("/", 1)[-1]
    )
    plain = plain.lstrip(".")[:180] or "output"
    stem, suffix = os.path.splitext(plain)  # noqa: PTH122 - a name, not a path
    for number in range(10_000):
        path = directory / (f"{stem} ({number}){suffix}" if number else plain)
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), path
        except FileExistsError:
            continue
        except OSError as error:
            raise Failure(Status.USAGE, f"{path}: {error.strerror}") from None
    raise Failure(Status.USAGE, f"{directory} holds too many files called {plain}")
