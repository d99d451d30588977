"""Errors of adding and keeping extensions.

EngineError (engine.errors)
└─ ExtensionError            something about one extension
   ├─ ExtensionUnknownError    the tenant has no extension of that name
   ├─ ExtensionExistsError     the name is taken
   ├─ ExtensionProtectedError  ``core`` is built in: it cannot be added, removed or replaced
   ├─ PolicyReservedError      a policy file of that name is there, and not for this tenant
   ├─ SourceRefusedError       the directory, file or repository cannot be taken over as it is
   ├─ ContentChangedError      what lies on the disk is not what was pinned
   ├─ NoNodesError             the pack loaded and offers no node
   ├─ RoutesOffError           its HTTP routes are not served
   ├─ UpdateAsksMoreError      a new version asks for more, and nobody said yes to it
   └─ UpdateFailedError        it could not follow a change of the image or of its policy

What goes wrong later has the class of where it went wrong: ``PolicyError`` for the policy file,
``EnvironmentFailedError`` for the packages, ``LoadFailedError`` or ``EndedError`` for the pack's own import.
"""

from __future__ import annotations

from engine.errors import EngineError


class ExtensionError(EngineError):
    """Something about one extension."""

    code = "extension"


class ExtensionUnknownError(ExtensionError):
    """The tenant has no extension of that name."""

    code = "extension-unknown"


class ExtensionExistsError(ExtensionError):
    """The name is taken."""

    code = "extension-exists"


class ExtensionProtectedError(ExtensionError):
    """``core`` is built in."""

    code = "extension-protected"


class PolicyReservedError(ExtensionError):
    """The operator's policy file of that name was not meant for this tenant's extension."""

    code = "policy-reserved"


class SourceRefusedError(ExtensionError):
    """The directory, file or repository cannot be taken over as it is."""

    code = "extension-source"


class ContentChangedError(ExtensionError):
    """What lies on the disk is not what was pinned; it is not run."""

    code = "extension-changed"


class NoNodesError(ExtensionError):
    """The pack loaded and offers no node."""

    code = "extension-empty"


class RoutesOffError(ExtensionError):
    """The extension has no HTTP routes, or its policy does not allow them."""

    code = "routes-off"


class UpdateAsksMoreError(ExtensionError):
    """A new version asks for more than the one that is there; nothing changed."""

    code = "update-asks-more"

    def __init__(self, name: str, more: tuple[str, ...], key: str) -> None:
        count = len(more)
        super().__init__(
            f"the new version of '{name}' asks for more than the one that is there, in {count} "
            f"{'respect' if count == 1 else 'respects'}: {'; '.join(more[:10])}"
            + (f"; and {count - 10} more" if count > 10 else ""),
            hint=f"the old one goes on; if all of it is well: ringfence extension update {name} --yes",
        )
        self.more = more
        self.key = key
        """Names exactly this list, of exactly this content; whoever sends it back says yes to it."""


class UpdateFailedError(ExtensionError):
    """The extension could not be brought up to date with the node image and its policy."""

    code = "extension-outdated"
