"""From what a pack declares and what the image holds to what has to be built; pure, no file and no network.

The image's packages are the ground: what they satisfy is not installed again, and the resolver is told their versions
so that it keeps to them. torch and its kin are never resolved anew (another build of torch would double the size and
break on the image's CUDA or CPU) unless the pack names a version that the image does not have.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import InvalidVersion, Version

from policies import TenantId
from sandbox.environment_errors import BuildFailedError, DependencyAbsentError
from sandbox.launcher.build_verb import NodeImage
from sandbox.manifests import Declared
from sandbox.requirement_lines import Wanted

FORMAT = 2
"""Part of every key: raise it when the way environments are built changes."""

NEVER = "; python_version < '0'"
"""As an override: removes a package from the resolution."""

TORCH_FAMILY = frozenset({"torch", "torchvision", "torchaudio", "torchtext", "triton", "xformers"})
_IMAGE_ONLY = frozenset({"torchvision", "torchaudio", "torchtext", "xformers"})
_NOT_FAMILY = frozenset(
    {"nvidia-ml-py", "nvidia-ml-py3"}
)  # reads the driver's figures, whatever torch there is
#: From this one on a build of it fits any torch that is not older than itself; before, each fits one torch alone.
_TORCHAUDIO_FOR_ANY = Version("2.11")
_VARIANTS_WITH = {"torchvision": "'full' (or 'cuda')"}

# All four unpack into the same folder `cv2`; the headless ones need no window system.
_HEADLESS = {
    "opencv-python": "opencv-python-headless",
    "opencv-python-headless": "opencv-python-headless",
    "opencv-contrib-python": "opencv-contrib-python-headless",
    "opencv-contrib-python-headless": "opencv-contrib-python-headless",
}
# Both unpack into the same folder `onnxruntime`: whichever comes second has the say, and half of the other's files.
_ONNX, _ONNX_GPU = "onnxruntime", "onnxruntime-gpu"
_WITH_GPU = "cuda"
_UPPER = ("<", "<=", "==", "~=")
#: Before this one its wheels are made for numpy 1 and say so nowhere; with numpy 2 an import of them fails.
_OPENCV_FOR_NUMPY_2 = Version("4.10.0.84")


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


@dataclass(frozen=True, slots=True)
class Lock:
    """A resolved set, without what the image has already."""

    text: str
    packages: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_torch_family(name: str) -> bool:
    """True for packages that have to match the image's build of torch."""
    return name in TORCH_FAMILY or (name.startswith("nvidia-") and name not in _NOT_FAMILY)


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
    wanted = [item for item in wanted if _name(item.requirement) not in without]
    wanted = [_headless(item, image, notes) for item in wanted]
    wanted = [_one_onnxruntime(item, wanted, image, notes) for item in wanted]
    wanted = [_for_numpy_2(item, wanted, image, notes) for item in wanted]
    open_items = [item for item in wanted if not _satisfied(item.requirement, image)]
    if not open_items:
        return Plan(notes=tuple(notes))
    replaces_torch = [
        item for item in open_items if _name(item.requirement) in image.packages and _is_family(item)
    ]
    if replaces_torch:
        first = replaces_torch[0]
        notes.append(
            f"{first.place}: '{first.requirement}' replaces the image's "
            f"{_name(first.requirement)} {image.packages[_name(first.requirement)]} for this extension"
        )
    else:
        wanted = [_torchaudio_that_fits(item, image, notes) for item in wanted]
        _refuse_absent(open_items, image, notes)
        wanted = [
            item
            for item in wanted
            if not _is_family(item) or _takes_torchaudio(_name(item.requirement), image)
        ]
    requirements = _lines(item.requirement for item in wanted)
    constraints = _lines(
        item.requirement for item in declared.constraints if _applies(item.requirement.marker, here)
    )
    overrides = _overrides(
        image, {_name(item.requirement) for item in wanted}, without, keep_torch=bool(replaces_torch)
    )
    preferences = tuple(f"{name}=={version}" for name, version in sorted(image.packages.items()))
    key = _key(image, requirements, constraints, overrides, tenant if source_builds else None)
    return Plan(key, requirements, constraints, overrides, preferences, tuple(notes))


def prune_lock(text: str, image: NodeImage, *, keep_torch: bool) -> Lock:
    """Drop from a resolver's output what the image has at the same version, and torch's kin.

    Raises: BuildFailedError when the output is not a list of pinned, hashed packages.
    """
    kept: list[str] = []
    packages: dict[str, str] = {}
    notes: list[str] = []
    for block in _blocks(text):
        name, version = _pin(block)
        if _same_version(image.packages.get(name), version):
            continue
        if is_torch_family(name) and not keep_torch and not _fits_the_torch_there_is(name, version, image):
            where = _VARIANTS_WITH.get(name)
            notes.append(
                f"{name} is wanted by another package and left out: image variant '{image.variant}' does not have it"
                + (f", {where} has" if where else "")
            )
            continue
        if "--hash=" not in block:
            raise BuildFailedError(f"the resolver gave no hash for {name} {version}")
        packages[name] = version
        kept.append(block)
    return Lock("".join(kept), packages, tuple(notes))


_UNOBTAINABLE = (
    re.compile(r"[Ww]heels are required for `([A-Za-z0-9._-]+)` because building from source is disabled"),
    re.compile(r"[Bb]ecause ([A-Za-z0-9._-]+) was not found in the package registry"),
    re.compile(
        r"[Bb]ecause (?:only |all versions of )?([A-Za-z0-9._-]+?)(?:[=<>!~]=?\S+)? ha(?:s|ve) no (?:usable )?wheels"
    ),
)


def unobtainable(text: str) -> frozenset[str]:
    """Packages of which a resolver says that there is none to be had: not in the index, or no wheel for this Python."""
    return frozenset(canonicalize_name(match[1]) for words in _UNOBTAINABLE for match in words.finditer(text))


def missing_module_hint(module: str, image: NodeImage) -> str:
    """What to do about a module that a pack imports and nobody installed."""
    package = canonicalize_name(module)
    if package not in _IMAGE_ONLY or package in image.packages or _takes_torchaudio(package, image):
        return "add the package that has it to the pack's requirements.txt, then: ringfence extension reload"
    where = _VARIANTS_WITH.get(package)
    if where is None:
        return f"no variant of the image has {package}; add it to the node image (docs/install.md)"
    return f"image variant '{image.variant}' does not have {package}, {where} has: RINGFENCE_VARIANT=full make up"


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


def _name(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def _is_family(item: Wanted) -> bool:
    return is_torch_family(_name(item.requirement))


def _satisfied(requirement: Requirement, image: NodeImage) -> bool:
    version = image.packages.get(_name(requirement))
    # Extras bring packages of their own, and the image's list does not say which extras it was made with.
    return (
        version is not None
        and not requirement.extras
        and requirement.specifier.contains(version, prereleases=True)
    )


def _headless(item: Wanted, image: NodeImage, notes: list[str]) -> Wanted:
    name = _name(item.requirement)
    headless = _HEADLESS.get(name)
    if headless is None or headless == name:
        return item
    replaced = Requirement(f"{headless}{item.requirement.specifier}")
    how = "the image's" if _satisfied(replaced, image) else "an installed"
    notes.append(
        f"{item.place}: '{item.requirement}' is satisfied by {how} {headless} (there are no windows here)"
    )
    return Wanted(replaced, item.place)


def _one_onnxruntime(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> Wanted:
    """The build for this image: that for GPUs where there may be some and the pack asks for it, else the other."""
    name = _name(item.requirement)
    asks_for_gpu = any(_name(other.requirement) == _ONNX_GPU for other in wanted)
    fits = _ONNX_GPU if asks_for_gpu and image.variant == _WITH_GPU else _ONNX
    if name not in (_ONNX, _ONNX_GPU) or name == fits:
        return item
    why = (
        "the pack asks for both" if fits == _ONNX_GPU else f"image variant '{image.variant}' is without CUDA"
    )
    notes.append(
        f"{item.place}: '{item.requirement}' is satisfied by {fits} ({why}, and they share one folder)"
    )
    return Wanted(Requirement(f"{fits}{item.requirement.specifier}"), item.place)


def _for_numpy_2(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> Wanted:
    """Lift an upper bound that allows only an OpenCV that cannot be imported beside the numpy there is."""
    name, numpy = _name(item.requirement), image.packages.get("numpy")
    if name not in _HEADLESS.values() or numpy is None or Version(numpy).major < 2:
        return item
    if any(_name(each.requirement) == "numpy" and not _satisfied(each.requirement, image) for each in wanted):
        return item  # it brings a numpy of its own
    bounds = [each for each in item.requirement.specifier if each.operator in _UPPER]
    if not any(_ends_before(each, _OPENCV_FOR_NUMPY_2) for each in bounds):
        return item
    notes.append(
        f"{item.place}: '{item.requirement}' allows only versions made for numpy 1, and the image has numpy {numpy}: "
        "a newer one is used"
    )
    # The extras of those versions are no more.
    return Wanted(Requirement(f"{name}>={_OPENCV_FOR_NUMPY_2}"), item.place)


def _ends_before(bound: Specifier, version: Version) -> bool:
    try:
        return Version(bound.version.removesuffix(".*")) < version and not bound.contains(version)
    except InvalidVersion:
        return False


def _takes_torchaudio(name: str, image: NodeImage) -> bool:
    """True for torchaudio, where the image has none and a torch that is new enough for it to come as a package."""
    return (
        name == "torchaudio" and name not in image.packages and _is_for_any(image.packages.get("torch", "0"))
    )


def _is_for_any(version: str) -> bool:
    return Version(version) >= _TORCHAUDIO_FOR_ANY


def _fits_the_torch_there_is(name: str, version: str, image: NodeImage) -> bool:
    return _takes_torchaudio(name, image) and _is_for_any(version)


def _torchaudio_that_fits(item: Wanted, image: NodeImage, notes: list[str]) -> Wanted:
    """Whatever version the pack names (that of its author's torch), the one that fits the image's."""
    if not _takes_torchaudio(_name(item.requirement), image):
        return item
    fitting = Requirement(f"torchaudio>={_TORCHAUDIO_FOR_ANY}")
    if any(
        _ends_before(each, _TORCHAUDIO_FOR_ANY)
        for each in item.requirement.specifier
        if each.operator in _UPPER
    ):
        notes.append(
            f"{item.place}: '{item.requirement}' is satisfied by '{fitting}', "
            f"which fits the image's torch {image.packages['torch']}"
        )
    return Wanted(fitting, item.place)


def _is_missing(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> bool:
    name = _name(item.requirement)
    if name in image.packages or any(_name(other.requirement) == name for other in wanted):
        return False
    notes.append(f"{item.place} imports '{item.requirement}' without asking for it: added")
    return True


def _refuse_absent(items: Iterable[Wanted], image: NodeImage, notes: list[str]) -> None:
    for item in items:
        name = _name(item.requirement)
        if name not in _IMAGE_ONLY or name in image.packages or _takes_torchaudio(name, image):
            continue
        where = _VARIANTS_WITH.get(name)
        if where is None:
            # Often wished for and seldom needed; an import of it says the same again.
            notes.append(
                f"{item.place}: '{item.requirement}' is left out: no variant of the image has {name}; add it to the "
                "node image (docs/install.md) where an import of it fails"
            )
            continue
        torch = image.packages.get("torch", "no torch")
        reason = f" ({image.absent[name]})" if name in image.absent else ""
        raise DependencyAbsentError(
            f"{item.place}: '{item.requirement}' has to match the image's torch ({torch}), and image variant "
            f"'{image.variant}' does not have it{reason}",
            hint=f"build the image variant {where}: RINGFENCE_VARIANT=full make up",
        )


def _overrides(
    image: NodeImage, wanted: set[str], without: frozenset[str], *, keep_torch: bool
) -> tuple[str, ...]:
    removed = set(without)
    if not keep_torch:
        removed |= {"torch", "triton"} | {name for name in image.packages if is_torch_family(name)}
    if any(name in image.packages or name in wanted for name in _HEADLESS):
        removed |= {name for name, headless in _HEADLESS.items() if name != headless} - wanted
    if _ONNX in wanted or _ONNX_GPU in wanted:
        removed |= {_ONNX, _ONNX_GPU} - wanted  # another package's wish for the one is answered by the other
    return tuple(f"{name} {NEVER}" for name in sorted(removed))


def _lines(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """Normal form: canonical names, sorted extras and specifiers, no markers (they were evaluated), sorted."""
    lines = set()
    for requirement in requirements:
        extras = f"[{','.join(sorted(canonicalize_name(extra) for extra in requirement.extras))}]"
        specifiers = ",".join(sorted(_normal(specifier) for specifier in requirement.specifier))
        lines.add(f"{_name(requirement)}{extras if requirement.extras else ''}{specifiers}")
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


def _blocks(text: str) -> Iterable[str]:
    """Each requirement of a lock with the hash lines that follow it."""
    block: list[str] = []
    for line in text.splitlines(keepends=True):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace() and block:
            yield "".join(block)
            block = []
        block.append(line)
    if block:
        yield "".join(block)


_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[^\s;\\]+")


def _pin(block: str) -> tuple[str, str]:
    match = _PINNED.match(block)
    try:
        if match is None:
            raise InvalidRequirement(block[:80])
        requirement = Requirement(match[0])
    except InvalidRequirement as error:
        raise BuildFailedError(f"the resolver gave an entry that is not a pinned package: {error}") from None
    return _name(requirement), match[0].partition("==")[2]


def _same_version(ours: str | None, theirs: str) -> bool:
    if ours is None:
        return False
    try:
        return Version(ours) == Version(theirs)
    except InvalidVersion:
        return ours == theirs
