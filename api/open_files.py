"""The limit of open files, raised before anything is started that inherits it."""

from __future__ import annotations

import resource

from policies import RingfenceError

OPEN_FILES_NEEDED = 1024
OPEN_FILES_ADVICE = (
    "raise the hard limit: ulimit -Hn 65536, LimitNOFILE= of a systemd unit, --ulimit of a container"
)
_OPEN_FILES_MOST = 1024 * 1024  # where there is no hard limit


class OpenFilesError(RingfenceError):
    """The limit of open files is too low."""

    code = "open-files-limit"


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: connections, sandboxes and tensors all take some.

    Raises:
        OpenFilesError: the hard limit is too low to serve with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # the kernel's own limit is lower (fs.nr_open); what there is may do
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_NEEDED:
        raise OpenFilesError(
            f"this process may open only {soft} files; at least {OPEN_FILES_NEEDED} are needed",
            hint=OPEN_FILES_ADVICE,
        )
