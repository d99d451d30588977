"""Stands in for pip inside a sandbox, where nothing can be installed: it tells what there is and refuses the rest."""

import importlib.metadata
import re
import sys

MESSAGE = (
    "pip is not available inside a sandbox: declare dependencies in requirements.txt; "
    "run 'ringfence extension reload'"
)
#: Where the pack's own packages are; a process that the pack starts does not have it in its path.
ENVIRONMENT = "/ringfence/env"
#: The version whose questions it answers; packs compare it.
__version__ = "24.0"


def main(args: "list[str] | None" = None) -> int:
    """Answer ``freeze``, ``list``, ``show``, ``check`` and ``--version``; refuse whatever else was asked for."""
    given = sys.argv[1:] if args is None else list(args)
    words = [word for word in given if not word.startswith("-")]
    if "--version" in given or "-V" in given:
        say(f"pip {__version__} (of a sandbox)")
    elif words[:1] == ["freeze"]:
        for name, version in _installed():
            say(f"{name}=={version}")
    elif words[:1] == ["list"]:
        say("Package Version\n------- -------")
        for name, version in _installed():
            say(f"{name} {version}")
    elif words[:1] == ["show"]:
        wanted = {_plain(name) for name in words[1:]}
        found = [item for item in _installed() if _plain(item[0]) in wanted]
        for name, version in found:
            say(f"Name: {name}\nVersion: {version}")
        return 0 if found else 1
    elif words[:1] == ["check"]:
        say("No broken requirements found.")
    else:
        sys.stderr.write(f"{MESSAGE}\n")
        return 1
    return 0


def say(line: str) -> None:
    """To whoever reads the answer."""
    sys.stdout.write(f"{line}\n")


def _installed() -> "list[tuple[str, str]]":
    found = {}
    for item in importlib.metadata.distributions(path=[ENVIRONMENT, *sys.path]):
        name = item.metadata["Name"]
        if name:
            found.setdefault(_plain(name), (name, item.version))
    return [found[key] for key in sorted(found)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
