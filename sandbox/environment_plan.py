"""From what a pack declares and what the image holds to what has to be built; pure, no file and no network.

The image's packages are the ground: what they satisfy is not installed again, and the resolver is told their versions
so that it keeps to them. torch and its kin are never resolved anew (another build of torch would double the size and
break on the image's CUDA or CPU) unless the pack names a version that the image does not have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name, canonicalize_version

from policies import TenantId
from sandbox.image_fit import (
    for_numpy_2,
    is_of_torch_family,
    is_torch_family,
    name_of,
    one_onnxruntime,
    other_builds,
    refuse_absent,
    satisfied,
    takes_torchaudio,
    torchaudio_that_fits,
    without_windows,
)
from sandbox.launcher.build_verb import NodeImage
from sandbox.manifests import Declared
from sandbox.requirement_lines import Wanted

FORMAT = 2
"""Part of every key: raise it when the way environments are built changes."""

NEVER = "; python_version < '0'"
"""As an override: removes a package from the resolution."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an environment is made from. ``requirements`` is empty when the image already has everything."""

    key: str = ""
    """Names the wish; what answers it is a lock (``environment_locks``)."""
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(
    image: NodeImage,
    declared: Declared,
    *,
    tenant: TenantId,
    source_builds: bool,
    without: frozenset[str] = frozenset(),
) -> Plan:
    """Decide what has to be built for a pack on this image; ``without`` are packages that cannot be had.

    Raises: DependencyAbsentError when the pack needs a package that only another image variant can bring.
    """
    notes = list(declared.notes)
    here = _marker_environment(image)
    wanted = [item for item in declared.wanted if _applies(item.requirement.marker, here)]
    wanted += [item for item in declared.implied if _is_missing(item, wanted, image, notes)]
    wanted = [item for item in wanted if name_of(item.requirement) not in without]
    wanted = [without_windows(item, image, notes) for item in wanted]
    wanted = [one_onnxruntime(item, wanted, image, notes) for item in wanted]
    wanted = [for_numpy_2(item, wanted, image, notes) for item in wanted]
    open_items = [item for item in wanted if not satisfied(item.requirement, image)]
    if not open_items:
        return Plan(notes=tuple(notes))
    replaces_torch = [
        item
        for item in open_items
        if name_of(item.requirement) in image.packages and is_of_torch_family(item)
    ]
    if replaces_torch:
        first = replaces_torch[0]
        notes.append(
            f"{first.place}: '{first.requirement}' replaces the image's "
            f"{name_of(first.requirement)} {image.packages[name_of(first.requirement)]} for this extension"
        )
    else:
        wanted = [torchaudio_that_fits(item, image, notes) for item in wanted]
        refuse_absent(open_items, image, notes)
        wanted = [
            item
            for item in wanted
            if not is_of_torch_family(item) or takes_torchaudio(name_of(item.requirement), image)
        ]
    requirements = _lines(item.requirement for item in wanted)
    constraints = _lines(
        item.requirement for item in declared.constraints if _applies(item.requirement.marker, here)
    )
    overrides = _overrides(
        image, {name_of(item.requirement) for item in wanted}, without, keep_torch=bool(replaces_torch)
    )
    preferences = tuple(f"{name}=={version}" for name, version in sorted(image.packages.items()))
    key = _key(image, requirements, constraints, overrides, tenant if source_builds else None)
    return Plan(key, requirements, constraints, overrides, preferences, tuple(notes))


def keeps_torch(plan: Plan) -> bool:
    """True when the plan lets the resolver choose torch itself."""
    return not any(line.startswith(("torch ;", "torch;")) for line in plan.overrides)


def _applies(marker: Marker | None, here: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(here)


def _marker_environment(image: NodeImage) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": image.python,
        "os_name": "posix",
        "platform_machine": image.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": image.python,
        "python_version": ".".join(image.python.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def _is_missing(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> bool:
    name = name_of(item.requirement)
    if name in image.packages or any(name_of(other.requirement) == name for other in wanted):
        return False
    notes.append(f"{item.place} imports '{item.requirement}' without asking for it: added")
    return True


def _overrides(
    image: NodeImage, wanted: set[str], without: frozenset[str], *, keep_torch: bool
) -> tuple[str, ...]:
    removed = set(without)
    if not keep_torch:
        removed |= {"torch", "triton"} | {name for name in image.packages if is_torch_family(name)}
    removed |= other_builds(image, wanted)
    return tuple(f"{name} {NEVER}" for name in sorted(removed))


def _lines(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """Normal form: canonical names, sorted extras and specifiers, no markers (they were evaluated), sorted."""
    lines = set()
    for requirement in requirements:
        extras = f"[{','.join(sorted(canonicalize_name(extra) for extra in requirement.extras))}]"
        specifiers = ",".join(sorted(_normal(specifier) for specifier in requirement.specifier))
        lines.add(f"{name_of(requirement)}{extras if requirement.extras else ''}{specifiers}")
    return tuple(sorted(lines))


def _normal(specifier: Specifier) -> str:
    # "<2.0" and "<2" mean the same; "~=2.0", "==2.0.*" and "===2.0" do not say the same as without the zero.
    if specifier.operator in ("<", "<=", ">", ">=", "==", "!=") and not specifier.version.endswith(".*"):
        return f"{specifier.operator}{canonicalize_version(specifier.version)}"
    return str(specifier)


def _key(
    image: NodeImage,
    requirements: tuple[str, ...],
    constraints: tuple[str, ...],
    overrides: tuple[str, ...],
    tenant: TenantId | None,
) -> str:
    # Wheels are only unpacked, so an environment of wheels serves every tenant. Building from source runs the
    # packages' code: one tenant's builds must not reach another, so the tenant is part of that key.
    parts = {
        "format": FORMAT,
        "interpreter": f"cpython-{image.python}",
        "platform": f"linux-{image.machine}",
        "image": dict(sorted(image.packages.items())),
        "requirements": requirements,
        "constraints": constraints,
        "overrides": overrides,
        "source_builds": tenant,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
