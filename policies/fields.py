"""The values a policy is made of: their types, their validators, and what to write when one is refused.

Every validator raises `FieldError`, which carries the hint; `load.py` adds file and line. Which keys there are
stands in `model.py`; whether a path may be used at all (links, allowlist roots) is decided in `merge.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from policies.errors import FieldError, NameInvalidError
from policies.names import parse_sandbox_group, parse_tenant_id
from policies.text import safe_text
from policies.units import (
    MAX_BYTES,
    MAX_DURATION_S,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_cpus,
    parse_duration,
)

# --- sizes, times, counts -------------------------------------------------------------------------------------


def _size(minimum: str, maximum: int = MAX_BYTES) -> Callable[[object], int]:
    floor = parse_bytes(minimum)

    def read(value: object) -> int:
        count = parse_bytes(value)
        if count < floor:
            raise FieldError(f"{format_bytes(count)} is too little", f"write at least '{minimum}'")
        if count > maximum:
            raise FieldError(f"{format_bytes(count)} is too much", f"write at most '{format_bytes(maximum)}'")
        return count

    return read


def _time(minimum: str, maximum_s: float = MAX_DURATION_S) -> Callable[[object], float]:
    floor = parse_duration(minimum)

    def read(value: object) -> float:
        seconds = parse_duration(value)
        if seconds < floor:
            raise FieldError(f"{format_duration(seconds)} is too short", f"write at least '{minimum}'")
        if seconds > maximum_s:
            longest = format_duration(maximum_s)
            raise FieldError(f"{format_duration(seconds)} is too long", f"write at most '{longest}'")
        return seconds

    return read


def _whole(minimum: int, maximum: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise FieldError(f"{shown(value)} is not a whole number", f"write a number such as {minimum}")
        if not minimum <= value <= maximum:
            number = "that" if abs(value) > 10**18 else str(value)
            raise FieldError(f"{number} is out of range", f"write a number from {minimum} to {maximum}")
        return value

    return read


_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)?$"},
        {"type": "integer", "minimum": 0},
    ],
    "examples": ["512MiB", "2GiB"],
}
_TIME_SCHEMA: dict[str, Any] = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["30s", "2m"]}


def _count_schema(minimum: int, maximum: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": minimum, "maximum": maximum})


# Floors: below them the engine or Python itself does not start, and the error would come from somewhere odd.
Memory = Annotated[int, BeforeValidator(_size("16MiB")), WithJsonSchema(_SIZE_SCHEMA)]
# Never 0: the kernel reads a tmpfs of size=0 as "no limit".
TmpfsSize = Annotated[int, BeforeValidator(_size("64KiB")), WithJsonSchema(_SIZE_SCHEMA)]
Size = Annotated[int, BeforeValidator(_size("0")), WithJsonSchema(_SIZE_SCHEMA)]
# A frame is parsed in the host's memory, so its cap has one of its own that no policy lifts.
MessageSize = Annotated[
    int, BeforeValidator(_size("4KiB", parse_bytes("64MiB"))), WithJsonSchema(_SIZE_SCHEMA)
]
Seconds = Annotated[float, BeforeValidator(_time("1ms")), WithJsonSchema(_TIME_SCHEMA)]
BuildSeconds = Annotated[float, BeforeValidator(_time("1s", 6 * 3600)), WithJsonSchema(_TIME_SCHEMA)]
Cpus = Annotated[
    float, BeforeValidator(parse_cpus), WithJsonSchema({"type": "number", "minimum": 0.05, "maximum": 1024})
]
Pids = Annotated[int, BeforeValidator(_whole(8, 2**22)), _count_schema(8, 2**22)]
Nofile = Annotated[int, BeforeValidator(_whole(32, 2**20)), _count_schema(32, 2**20)]
Count = Annotated[int, BeforeValidator(_whole(1, 10**9)), _count_schema(1, 10**9)]
GpuCount = Annotated[int, BeforeValidator(_whole(0, 1024)), _count_schema(0, 1024)]


# --- words ----------------------------------------------------------------------------------------------------


def _group(value: object) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{shown(value)} is not a group name", "write a word such as 'video'")
    try:
        return parse_sandbox_group(value)
    except NameInvalidError as error:
        raise FieldError(error.message, error.hint) from None


Group = Annotated[
    str, BeforeValidator(_group), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,31}$"})
]


# --- GPUs -----------------------------------------------------------------------------------------------------

_GPU = re.compile(r"(?:GPU|MIG)-[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z|[0-9]{1,3}\Z")


def _gpus(value: object) -> tuple[str, ...]:
    named = "name them: gpus: ['GPU-<uuid>'] (nvidia-smi -L lists them); 0 means none"
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return ()
        # A count would let the engine choose, and the same GPU could go to two tenants at once.
        raise FieldError(f"{value if abs(value) < 1000 else 'that'} does not say which GPUs", named)
    if not isinstance(value, list | tuple):
        raise FieldError(f"{shown(value)} is not a list of GPUs", named)
    if len(value) > 64:
        raise FieldError(f"{len(value)} GPUs are too many", "write at most 64")
    ids = tuple(_gpu(item) for item in value)
    if len(set(ids)) != len(ids):
        raise FieldError("a GPU is named twice", "name each GPU once")
    return ids


def _gpu(item: object) -> str:
    text = str(item) if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1000 else item
    if not isinstance(text, str) or not _GPU.match(text):
        raise FieldError(
            f"{shown(item)} is not a GPU", "write a UUID ('GPU-...', 'MIG-...') or an index such as '0'"
        )
    return text


Gpus = Annotated[
    tuple[str, ...],
    BeforeValidator(_gpus),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": 0},
                {"type": "array", "maxItems": 64, "items": {"type": ["string", "integer"]}},
            ]
        }
    ),
]

# --- environment variables ------------------------------------------------------------------------------------

FORBIDDEN_VARIABLES: dict[str, str] = {
    "LD_": "it makes the dynamic linker load code",
    "DYLD_": "it makes the dynamic linker load code",
    "GLIBC_": "it changes the C library under the worker",
    "MALLOC_": "it changes the C library under the worker",
    "GCONV_": "it makes the C library load code",
    "PYTHON": "it changes the interpreter before the worker has secured its descriptors",
    "RINGFENCE_": "these are Ringfence's own",
    "NVIDIA_": "the GPU hook reads these as a request for devices; use 'gpus'",
    "CUDA_VISIBLE_": "use 'gpus'",
    "DOCKER_": "they belong to the engine's client",
}
"""Prefixes no policy may set, each with its reason."""

FORBIDDEN_NAMES: dict[str, str] = {
    "PATH": "the worker sets it",
    "HOME": "the worker sets it",
    "TMPDIR": "the worker sets it",
    "USER": "the worker sets it",
    "VIRTUAL_ENV": "the worker sets it",
    "IFS": "it changes how a shell reads commands",
    "ENV": "a shell runs the file it names",
    "BASH_ENV": "a shell runs the file it names",
    "HTTP_PROXY": "the worker sets it; use 'network'",
    "HTTPS_PROXY": "the worker sets it; use 'network'",
    "ALL_PROXY": "the worker sets it; use 'network'",
    "NO_PROXY": "the worker sets it; use 'network'",
}
"""Names no policy may set, each with its reason."""

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\Z")
VARIABLES_LIMIT = 64
_VARIABLE_VALUE_LIMIT = 4096


def check_variable(name: str) -> str:
    """Raises: FieldError unless a policy may set the environment variable `name`."""
    if not _VARIABLE.match(name):
        raise FieldError(
            f"'{safe_text(name, 60)}' is not a variable name", "use A-Z, 0-9 and '_', not a digit first"
        )
    reason = FORBIDDEN_NAMES.get(name) or next(
        (why for prefix, why in FORBIDDEN_VARIABLES.items() if name.startswith(prefix)), None
    )
    if reason:
        raise FieldError(f"a policy cannot set {name}: {reason}", "remove the line")
    return name


def _variable_value(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    if not isinstance(value, str):
        raise FieldError(f"{shown(value)} is not text", "put the value in quotes")
    if len(value) > _VARIABLE_VALUE_LIMIT:
        limit = _VARIABLE_VALUE_LIMIT
        raise FieldError(f"the value has {len(value)} characters", f"write at most {limit}")
    if not value.isprintable():
        raise FieldError("the value has a control character in it", "write printable text")
    return value


def check_variable_count(variables: dict[str, str]) -> dict[str, str]:
    """Raises: FieldError for more variables than a sandbox needs."""
    if len(variables) > VARIABLES_LIMIT:
        raise FieldError(f"{len(variables)} variables are too many", f"write at most {VARIABLES_LIMIT}")
    return variables


VariableName = Annotated[
    str, BeforeValidator(check_variable), WithJsonSchema({"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*$"})
]
VariableValue = Annotated[
    str, BeforeValidator(_variable_value), WithJsonSchema({"type": ["string", "integer"]})
]

_VARIABLE_PATTERN = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\*?\Z")
ANY_VARIABLE = "any"


def _variables_ceiling(value: object) -> object:
    if value == ANY_VARIABLE:
        return (ANY_VARIABLE,)
    if not isinstance(value, list | tuple):
        raise FieldError(
            f"{shown(value)} is not a list of names",
            "write any, or a list such as [OMP_NUM_THREADS, 'HF_*']",
        )
    if len(value) > 256:
        raise FieldError(f"{len(value)} names are too many", "write at most 256")
    return tuple(value)


def _variable_pattern(value: object) -> str:
    if value == ANY_VARIABLE:
        return ANY_VARIABLE
    if not isinstance(value, str) or not _VARIABLE_PATTERN.match(value):
        raise FieldError(
            f"{shown(value)} is not a variable name", "use A-Z, 0-9 and '_', and at most one '*' at the end"
        )
    return value


VariablesCeiling = Annotated[
    tuple[Annotated[str, BeforeValidator(_variable_pattern)], ...],
    BeforeValidator(_variables_ceiling),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": ANY_VARIABLE},
                {
                    "type": "array",
                    "maxItems": 256,
                    "items": {"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*\\*?$"},
                },
            ]
        }
    ),
]


def allows_variable(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a ceiling of variable names has `name` in it."""
    return any(
        pattern in (ANY_VARIABLE, name) or (pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in patterns
    )


# --- paths (their spelling; containment is `paths.py`) --------------------------------------------------------

TENANT_AREAS = ("input", "output", "temp", "models", "user")
"""The directories of a tenant a policy can name."""

MOUNT_ROOTS = ("/mnt", "/data", "/srv", "/app/models")
"""Where a host path may appear inside. An allow-list: over /usr, /opt or /proc it would replace what we run."""

_SUB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._-]{0,127}\Z")


def _tenant_area(value: object) -> str:
    form = f"write one of {', '.join(TENANT_AREAS)}, or a folder in it such as 'user/notes'"
    if not isinstance(value, str):
        raise FieldError(f"{shown(value)} is not a directory of the tenant", form)
    area, *folders = value.split("/")
    if ".." in folders or area == "..":
        raise FieldError(f"{shown(value)} climbs out with '..'", form)
    if area not in TENANT_AREAS or len(folders) > 8 or not all(_SUB.match(folder) for folder in folders):
        raise FieldError(f"{shown(value)} is not a directory of the tenant", form)
    return value


def _absolute(value: object) -> str:
    form = "write an absolute path such as '/srv/models'"
    if not isinstance(value, str) or len(value) > 4096:
        raise FieldError(f"{shown(value)} is not a path", form)
    # Commas and colons separate the fields of the engine's mount options.
    if not value.isprintable() or set(value) & {",", ":", "\\"}:
        raise FieldError(f"{shown(value)} has a character that a mount cannot carry", form)
    if ".." in value.split("/"):
        raise FieldError(f"{shown(value)} climbs with '..'", form)
    if not value.startswith("/"):
        raise FieldError(f"{shown(value)} is not absolute", form)
    normal = str(PurePosixPath("/" + value.lstrip("/")))
    if normal != value:
        raise FieldError(f"{shown(value)} is not in its plain form", f"write '{safe_text(normal, 200)}'")
    return value


def _mount(value: object) -> str:
    path = PurePosixPath(_absolute(value))
    if not any(PurePosixPath(root) in path.parents for root in MOUNT_ROOTS):
        example = f"/mnt/{path.name or 'data'}"
        roots = ", ".join(MOUNT_ROOTS)
        raise FieldError(f"{shown(value)} is not below {roots}", f"write '{safe_text(example, 200)}'")
    return str(path)


# Whoever can write here is root on this machine, or reads every secret of it.
_NEVER_ROOTS = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/docker", "/var/run")


def _path_root(value: object) -> str:
    path = PurePosixPath(_absolute(value))
    for never in map(PurePosixPath, (*_NEVER_ROOTS, "/root/.ssh")):
        if path.is_relative_to(never) or never.is_relative_to(path):
            raise FieldError(
                f"{shown(value)} takes in {never}", "write a directory made for this, such as '/srv/models'"
            )
    return str(path)


def _tenant(value: object) -> str:
    try:
        return parse_tenant_id(value)  # type: ignore[arg-type]  # it checks the type itself
    except NameInvalidError as error:
        raise FieldError(error.message, error.hint) from None


PathRoot = Annotated[str, BeforeValidator(_path_root), WithJsonSchema({"type": "string", "pattern": "^/"})]
TenantName = Annotated[str, BeforeValidator(_tenant), WithJsonSchema({"type": "string"})]
TenantArea = Annotated[
    str,
    BeforeValidator(_tenant_area),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(TENANT_AREAS)})(/[^/]+)*$"}),
]
AbsolutePath = Annotated[str, BeforeValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^/"})]
MountPoint = Annotated[str, BeforeValidator(_mount), WithJsonSchema({"type": "string", "pattern": "^/"})]


def shown(value: object) -> str:
    if isinstance(value, str):
        return f"'{safe_text(value, 80)}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and abs(value) < 10**18:
        return str(value)
    names = {"dict": "a map", "list": "a list", "tuple": "a list", "NoneType": "nothing"}
    return names.get(type(value).__name__, "a number out of range")
