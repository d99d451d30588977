"""How single packages are made to fit an image: torch's kin, and packages of which only one build goes with the others.

Pure, and about one package at a time; what all of them come to is ``environment_plan``'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from sandbox.environment_errors import DependencyAbsentError
from sandbox.launcher.build_verb import NodeImage
from sandbox.requirement_lines import Wanted

TORCH_FAMILY = frozenset({"torch", "torchvision", "torchaudio", "torchtext", "triton", "xformers"})
_IMAGE_ONLY = frozenset({"torchvision", "torchaudio", "torchtext", "xformers"})
_NOT_FAMILY = frozenset(
    {"nvidia-ml-py", "nvidia-ml-py3"}
)  # reads the driver's figures, whatever torch there is
#: From this one on a build of it fits any torch that is not older than itself; before, each fits one torch alone.
_TORCHAUDIO_FOR_ANY = Version("2.11")
VARIANTS_WITH = {"torchvision": "'full' (or 'cuda')"}
"""Which variants of the image have a package that the smallest has not."""

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


def is_torch_family(name: str) -> bool:
    """True for packages that have to match the image's build of torch."""
    return name in TORCH_FAMILY or (name.startswith("nvidia-") and name not in _NOT_FAMILY)


def missing_module_hint(module: str, image: NodeImage) -> str:
    """What to do about a module that a pack imports and nobody installed."""
    package = canonicalize_name(module)
    if package not in _IMAGE_ONLY or package in image.packages or takes_torchaudio(package, image):
        return "add the package that has it to the pack's requirements.txt, then: ringfence extension reload"
    where = VARIANTS_WITH.get(package)
    if where is None:
        return f"no variant of the image has {package}; add it to the node image (docs/install.md)"
    return f"image variant '{image.variant}' does not have {package}, {where} has: RINGFENCE_VARIANT=full make up"


def name_of(requirement: Requirement) -> str:
    """The package's one name."""
    return canonicalize_name(requirement.name)


def is_of_torch_family(item: Wanted) -> bool:
    """As ``is_torch_family``, of a wish."""
    return is_torch_family(name_of(item.requirement))


def satisfied(requirement: Requirement, image: NodeImage) -> bool:
    """True when the image has it already."""
    version = image.packages.get(name_of(requirement))
    # Extras bring packages of their own, and the image's list does not say which extras it was made with.
    return (
        version is not None
        and not requirement.extras
        and requirement.specifier.contains(version, prereleases=True)
    )


def without_windows(item: Wanted, image: NodeImage, notes: list[str]) -> Wanted:
    """The build of OpenCV that needs no window system."""
    name = name_of(item.requirement)
    headless = _HEADLESS.get(name)
    if headless is None or headless == name:
        return item
    replaced = Requirement(f"{headless}{item.requirement.specifier}")
    how = "the image's" if satisfied(replaced, image) else "an installed"
    notes.append(
        f"{item.place}: '{item.requirement}' is satisfied by {how} {headless} (there are no windows here)"
    )
    return Wanted(replaced, item.place)


def one_onnxruntime(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> Wanted:
    """The build for this image: that for GPUs where there may be some and the pack asks for it, else the other."""
    name = name_of(item.requirement)
    asks_for_gpu = any(name_of(other.requirement) == _ONNX_GPU for other in wanted)
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


def for_numpy_2(item: Wanted, wanted: Iterable[Wanted], image: NodeImage, notes: list[str]) -> Wanted:
    """Lift an upper bound that allows only an OpenCV that cannot be imported beside the numpy there is."""
    name, numpy = name_of(item.requirement), image.packages.get("numpy")
    if name not in _HEADLESS.values() or numpy is None or Version(numpy).major < 2:
        return item
    if any(
        name_of(each.requirement) == "numpy" and not satisfied(each.requirement, image) for each in wanted
    ):
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


def takes_torchaudio(name: str, image: NodeImage) -> bool:
    """True for torchaudio, where the image has none and a torch that is new enough for it to come as a package."""
    return (
        name == "torchaudio" and name not in image.packages and _is_for_any(image.packages.get("torch", "0"))
    )


def _is_for_any(version: str) -> bool:
    return Version(version) >= _TORCHAUDIO_FOR_ANY


def fits_the_torch_there_is(name: str, version: str, image: NodeImage) -> bool:
    """True for a version of torchaudio that goes with the image's torch."""
    return takes_torchaudio(name, image) and _is_for_any(version)


def torchaudio_that_fits(item: Wanted, image: NodeImage, notes: list[str]) -> Wanted:
    """Whatever version the pack names (that of its author's torch), the one that fits the image's."""
    if not takes_torchaudio(name_of(item.requirement), image):
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


def other_builds(image: NodeImage, wanted: set[str]) -> set[str]:
    """What would overwrite a package that is there or wanted: another package's wish for it is answered by that one."""
    others: set[str] = set()
    if any(name in image.packages or name in wanted for name in _HEADLESS):
        others |= {name for name, headless in _HEADLESS.items() if name != headless}
    if _ONNX in wanted or _ONNX_GPU in wanted:
        others |= {_ONNX, _ONNX_GPU}
    return others - wanted


def refuse_absent(items: Iterable[Wanted], image: NodeImage, notes: list[str]) -> None:
    """Say which wishes no package can fulfil.

    Raises: DependencyAbsentError when another image variant can.
    """
    for item in items:
        name = name_of(item.requirement)
        if name not in _IMAGE_ONLY or name in image.packages or takes_torchaudio(name, image):
            continue
        where = VARIANTS_WITH.get(name)
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
