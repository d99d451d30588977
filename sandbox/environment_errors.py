"""Errors of building an extension's environment; each concerns that one extension and nothing else.

RingfenceError (policies)
└─ EnvironmentFailedError        the environment of an extension could not be had
   ├─ DependencyRefusedError     a line of the pack's requirements is not allowed or not readable
   │  └─ DirectReferenceError    ... because it is fetched from a URL or a repository
   ├─ DependencyAbsentError      the image lacks a package that only an image can bring (torchvision)
   ├─ GroupConflictError         the members of a sandbox group need packages that exclude each other
   ├─ EnvironmentChangedError    an environment on disk is not what was built
   └─ BuildFailedError           the build container ended without an environment; ``lines`` is the end of its output
      ├─ BuildToolsError         ... because what a build from source needs to run cannot be had, or is not locked
      ├─ PackageChangedError     ... because the index has another file than the lock; both hashes are named
      └─ BuildLimitError         ... because of a cap; ``limit`` (time, memory, disk) and ``figure`` say which
"""

from __future__ import annotations

from policies import RingfenceError


class EnvironmentFailedError(RingfenceError):
    """The environment of an extension could not be had."""

    code = "environment-failed"


class DependencyRefusedError(EnvironmentFailedError):
    """A line of what the pack says it needs may not be used; ``place`` is file and line inside the pack."""

    code = "dependency-refused"

    def __init__(self, message: str, *, place: str, hint: str = "") -> None:
        super().__init__(f"{place}: {message}", hint=hint)
        self.place = place


class DirectReferenceError(DependencyRefusedError):
    """A requirement that is fetched from a URL or a repository, past the operator's index."""


class DependencyAbsentError(EnvironmentFailedError):
    """The pack needs a package that has to match the image's torch, and this image variant does not have it."""

    code = "dependency-absent"


class GroupConflictError(EnvironmentFailedError):
    """The members of a sandbox group need packages that exclude each other; the message names members and versions."""

    code = "group-conflict"


class BuildFailedError(EnvironmentFailedError):
    """The build container ended without an environment."""

    code = "environment-build-failed"

    def __init__(self, message: str, *, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.lines = lines


class BuildToolsError(BuildFailedError):
    """What a build from source needs in order to run cannot be had, or does not stand in the lock."""

    code = "build-tools"


class BuildLimitError(BuildFailedError):
    """A cap ended the build."""

    code = "environment-build-limit"

    def __init__(
        self, message: str, *, limit: str, figure: str, hint: str = "", lines: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint, lines=lines)
        self.limit = limit
        self.figure = figure


class PackageChangedError(BuildFailedError):
    """The index gives other bytes for a locked version than when it was locked."""

    code = "package-changed"

    def __init__(
        self, package: str, expected: tuple[str, ...], found: tuple[str, ...], *, lines: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            f"the package index has another file for {package} than the extension's lock: "
            f"locked {', '.join(expected) or 'other hashes'}, found {', '.join(found) or 'none of them'}",
            hint="a version that was published does not change: find out why it did. To lock what the index has now: "
            "ringfence extension reload NAME --upgrade",
            lines=lines,
        )
        self.package = package
        self.expected = expected
        self.found = found


class EnvironmentChangedError(EnvironmentFailedError):
    """What lies under an environment's key is not what was built there."""

    code = "environment-changed"
