"""The operator's secrets: one file per tenant and name, read by the host alone, as ``<directory>/<tenant>/<NAME>``.

Which header of which host a secret is for stands in the policy; the value stands in no policy. It leaves this room
only in that header, on its way to that host.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from policies import Secret as SecretEntry
from policies import TenantId
from sandbox.egress.decision import Target
from sandbox.errors import StartError

_MIN_BYTES: Final = 8
_MAX_BYTES: Final = 8 * 1024
_VALUE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?\Z")


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret, ready to be filled in."""

    name: str
    target: Target
    header: bytes
    """Lower case."""
    line: bytes = field(repr=False)
    """The header's value with the secret in it."""
    value: bytes = field(repr=False)


class Vault:
    """Reads a secret's file anew for every sandbox that starts, so that a rotated secret needs no restart."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def secrets(self, entries: Iterable[SecretEntry], tenant: TenantId) -> tuple[Secret, ...]:
        """The secrets that a policy names, for this tenant. Blocking.

        Raises:
            StartError: a file is missing, or others may read it, or its content fits into no header.
        """
        found = []
        for entry in entries:
            value = self._read(entry.name, tenant)
            line = entry.format.encode("ascii").replace(b"{}", value)
            target = Target(entry.destination.host, entry.destination.port)
            found.append(Secret(entry.name, target, entry.header.lower().encode("ascii"), line, value))
        return tuple(found)

    def _read(self, name: str, tenant: TenantId) -> bytes:
        if self._directory is None:
            raise StartError(
                f"the policy names the secret '{name}', and this host has no directory of secrets"
            )
        file = self._directory / tenant / name
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise StartError(
                f"the secret '{name}' of tenant '{tenant}' cannot be read: {error.strerror}",
                f"put its value into the file {tenant}/{name} of the data directory's 'secrets', mode 600",
            ) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StartError(f"the secret '{name}' of tenant '{tenant}' is not a regular file")
            if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise StartError(
                    f"the file of secret '{name}' of tenant '{tenant}' is open to others, so it is not used",
                    "chmod 600, and make it Ringfence's own",
                )
            value = os.read(fd, _MAX_BYTES + 2).removesuffix(b"\n").removesuffix(b"\r")
        finally:
            os.close(fd)
        # Shorter than that, and looking for it in answers would tear holes into them.
        if not _MIN_BYTES <= len(value) <= _MAX_BYTES or not _VALUE.match(value):
            raise StartError(
                f"the secret '{name}' of tenant '{tenant}' fits into no header",
                f"its file holds {_MIN_BYTES} to {_MAX_BYTES} visible ASCII characters on one line",
            )
        return value
