"""What has to be built, given a pack and an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from policies import LOCAL_TENANT, TenantId
from sandbox.environment_errors import BuildFailedError, DependencyAbsentError
from sandbox.environment_plan import Plan, keeps_torch, make_plan
from sandbox.image_fit import is_torch_family, missing_module_hint
from sandbox.launcher.build_verb import NodeImage
from sandbox.manifests import Declared
from sandbox.requirement_lines import Wanted, parse_requirement
from sandbox.resolver_answers import prune_lock, unobtainable

OTHER = TenantId("other")


def declared(*lines: str) -> Declared:
    items = enumerate(lines, 1)
    return Declared(tuple(Wanted(parse_requirement(line, "r"), f"requirements.txt:{n}") for n, line in items))


def plan(image: NodeImage, *lines: str, tenant: TenantId = LOCAL_TENANT, source_builds: bool = False) -> Plan:
    return make_plan(image, declared(*lines), tenant=tenant, source_builds=source_builds)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("numpy", "Pillow>=9", "torch", "tqdm~=4.0"),
        ("torch==2.13.0",),
        ("pywin32; sys_platform == 'win32'", "numpy; python_version >= '3.9'"),
        ("numpy>=2",),
    ],
)
def test_nothing_is_built_when_the_image_has_it_all(image: NodeImage, lines: tuple[str, ...]) -> None:
    assert plan(image, *lines).key == ""


def test_the_key_covers_the_normal_form_of_the_dependencies(image: NodeImage) -> None:
    key = plan(image, "numpy<2", "scikit-image").key
    assert key == plan(image, "scikit_image", "NumPy < 2.0").key
    assert key != plan(image, "numpy<2").key
    assert key != plan(image, "numpy<2.1", "scikit-image").key


def test_the_key_covers_interpreter_platform_and_image(image: NodeImage) -> None:
    key = plan(image, "numpy<2").key
    assert key != plan(replace(image, python="3.12.1"), "numpy<2").key
    assert key != plan(replace(image, machine="aarch64"), "numpy<2").key
    assert key != plan(replace(image, packages={**image.packages, "tqdm": "4.71"}), "numpy<2").key
    assert key == plan(replace(image, id="sha256:rebuilt"), "numpy<2").key


def test_wheels_serve_every_tenant_and_source_builds_only_their_own(image: NodeImage) -> None:
    assert plan(image, "numpy<2").key == plan(image, "numpy<2", tenant=OTHER).key
    ours = plan(image, "numpy<2", source_builds=True).key
    assert ours != plan(image, "numpy<2").key
    assert ours != plan(image, "numpy<2", tenant=OTHER, source_builds=True).key


def test_torch_is_kept_out_of_the_resolution(image: NodeImage) -> None:
    made = plan(image, "torch>=2", "kornia")
    assert made.requirements == ("kornia",)
    assert "torch ; python_version < '0'" in made.overrides
    assert not keeps_torch(made)
    assert "torch==2.13.0+cpu" in made.preferences


def test_a_pack_that_pins_another_torch_gets_it_and_the_operator_is_told(image: NodeImage) -> None:
    made = plan(image, "torch==2.1.0", "torchvision==0.16.0")
    assert made.requirements == ("torch==2.1", "torchvision==0.16")
    assert keeps_torch(made)
    assert made.notes == (
        "requirements.txt:1: 'torch==2.1.0' replaces the image's torch 2.13.0+cpu for this extension",
    )


def test_a_missing_torchvision_names_the_variant_that_has_it(image: NodeImage) -> None:
    with pytest.raises(DependencyAbsentError) as caught:
        plan(image, "numpy", "torchvision")
    text = str(caught.value)
    assert "requirements.txt:2" in text
    assert "'cpu' does not have it (no build for this torch)" in text
    assert "image variant 'full'" in text


def test_what_no_variant_has_says_so(image: NodeImage) -> None:
    made = plan(image, "xformers", "kornia")
    assert made.requirements == ("kornia",)
    assert "requirements.txt:1: 'xformers' is left out: no variant of the image has xformers" in made.notes[0]


def test_torchaudio_is_the_one_that_fits_the_images_torch_whatever_version_the_pack_names(
    image: NodeImage,
) -> None:
    made = plan(image, "torchaudio", "kornia")
    assert made.requirements == ("kornia", "torchaudio>=2.11")
    assert "torch ; python_version < '0'" in made.overrides
    assert made.notes == ()
    made = plan(image, "torchaudio==2.5.1")
    assert made.requirements == ("torchaudio>=2.11",)
    assert "'torchaudio==2.5.1' is satisfied by 'torchaudio>=2.11'" in made.notes[0]
    assert plan(image, "torch==2.8", "torchaudio==2.8").requirements == ("torch==2.8", "torchaudio==2.8")
    has_it = replace(image, packages={**image.packages, "torchaudio": "2.11.0"})
    assert plan(has_it, "torchaudio").key == ""


def test_a_torch_that_is_too_old_for_any_torchaudio_but_its_own_is_said(image: NodeImage) -> None:
    old = replace(image, packages={**image.packages, "torch": "2.8.0+cpu"})
    made = plan(old, "torchaudio")
    assert made.requirements == ()
    assert "'torchaudio' is left out: no variant of the image has torchaudio" in made.notes[0]
    assert "no variant" in missing_module_hint("torchaudio", old)
    assert "requirements.txt" in missing_module_hint("torchaudio", image)


def test_a_lock_keeps_a_torchaudio_that_fits(image: NodeImage) -> None:
    for version, stays in (("2.11.0", True), ("2.5.1", False)):
        lock = prune_lock(f"torchaudio=={version} --hash=sha256:aa\n", image, keep_torch=False)
        assert ("torchaudio" in lock.packages) is stays, version


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "hint: Wheels are required for `fairscale` because building from source is disabled for all packages",
            {"fairscale"},
        ),
        ("cause: Because Nowhere_X was not found in the package registry and you require", {"nowhere-x"}),
        ("Because only old-one==1.2 has no wheels with a matching Python ABI tag", {"old-one"}),
        ("Because all versions of old-one have no usable wheels and", {"old-one"}),
        ("Because you require a and b, your requirements are unsatisfiable.", set()),
    ],
)
def test_what_cannot_be_had_is_read_off_the_resolvers_words(text: str, names: set[str]) -> None:
    assert unobtainable(text) == names


def test_what_cannot_be_had_is_kept_out_of_the_resolution(image: NodeImage) -> None:
    made = make_plan(
        image,
        declared("fairscale", "piexif"),
        tenant=LOCAL_TENANT,
        source_builds=False,
        without=frozenset({"fairscale"}),
    )
    assert made.requirements == ("piexif",)
    assert "fairscale ; python_version < '0'" in made.overrides


def test_what_a_pack_imports_without_asking_is_added_unless_it_is_there(image: NodeImage) -> None:
    implied = tuple(
        Wanted(Requirement(name), "nodes.py") for name in ("requests", "numpy>=1", "transformers>=4", "av")
    )
    made = make_plan(
        image,
        replace(declared("transformers==4.40"), implied=implied),
        tenant=LOCAL_TENANT,
        source_builds=False,
    )
    assert made.requirements == ("av", "requests", "transformers==4.40")
    assert made.notes[0] == "nodes.py imports 'requests' without asking for it: added"


def test_a_module_that_is_missing_at_import_is_explained(image: NodeImage) -> None:
    assert "'full' (or 'cuda') has" in missing_module_hint("torchvision", image)
    assert "no variant" in missing_module_hint("xformers", image)
    assert "requirements.txt" in missing_module_hint("piexif", image)


def test_an_image_with_torchvision_satisfies_it(image: NodeImage) -> None:
    full = replace(image, packages={**image.packages, "torchvision": "0.28.0+cpu"})
    assert plan(full, "torchvision>=0.15").key == ""


def test_every_opencv_is_the_headless_one(image: NodeImage) -> None:
    made = plan(image, "opencv-python>=4")
    assert made.key == ""
    assert "satisfied by the image's opencv-python-headless" in made.notes[0]
    other = plan(image, "opencv-python==4.11.0.86")
    assert other.requirements == ("opencv-python-headless==4.11.0.86",)
    contrib = plan(image, "opencv-contrib-python")
    assert contrib.requirements == ("opencv-contrib-python-headless",)
    assert "opencv-python ; python_version < '0'" in contrib.overrides


@pytest.mark.parametrize(
    ("variant", "lines", "taken"),
    [
        ("cpu", ("onnxruntime", "onnxruntime-gpu"), "onnxruntime"),
        ("cpu", ("onnxruntime_gpu>=1.17",), "onnxruntime>=1.17"),
        ("full", ("onnxruntime-gpu",), "onnxruntime"),
        ("cuda", ("onnxruntime", "onnxruntime-gpu"), "onnxruntime-gpu"),
        ("cuda", ("onnxruntime",), "onnxruntime"),
    ],
)
def test_there_is_one_onnxruntime_and_it_fits_the_image(
    image: NodeImage, variant: str, lines: tuple[str, ...], taken: str
) -> None:
    made = plan(replace(image, variant=variant), *lines)
    assert made.requirements == (taken,)
    other = {"onnxruntime", "onnxruntime-gpu"} - {taken.partition(">")[0]}
    assert f"{other.pop()} ; python_version < '0'" in made.overrides
    assert len([note for note in made.notes if "is satisfied by onnxruntime" in note]) == (
        taken.partition(">")[0] not in lines or len(lines) > 1
    )


def test_an_opencv_that_cannot_be_imported_beside_numpy_2_is_not_taken(image: NodeImage) -> None:
    made = plan(image, "opencv-python-headless[ffmpeg]<=4.7.0.72")
    assert made.key == ""
    assert "allows only versions made for numpy 1, and the image has numpy 2" in made.notes[0]
    for kept in ("opencv-python<5", "opencv-python~=4.9", "opencv-python>=4.5"):
        assert not any("numpy" in note for note in plan(image, kept).notes)
    with_its_numpy = plan(image, "opencv-python==4.8.0.76", "numpy<2")
    assert "opencv-python-headless==4.8.0.76" in with_its_numpy.requirements


def test_what_belongs_to_torch_is_known_by_name() -> None:
    assert is_torch_family("nvidia-cublas-cu12")
    assert not is_torch_family("nvidia-ml-py")
    assert not is_torch_family("torchsde")


def test_extras_are_not_taken_for_granted(image: NodeImage) -> None:
    assert plan(image, "tqdm[notebook]").requirements == ("tqdm[notebook]",)


LOCK = """\
networkx==3.6.1 \\
    --hash=sha256:aa
    # via scikit-image
numpy==1.26.4 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via -r requirements.in
pillow==13.0.0 \\
    --hash=sha256:dd
torchvision==0.28.0 \\
    --hash=sha256:ee
    # via timm
"""


def test_the_lock_keeps_what_the_image_does_not_have(image: NodeImage) -> None:
    lock = prune_lock(LOCK, image, keep_torch=False)
    assert lock.packages == {"networkx": "3.6.1", "numpy": "1.26.4"}
    assert lock.text == (
        "networkx==3.6.1 \\\n    --hash=sha256:aa\nnumpy==1.26.4 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    )
    (note,) = lock.notes
    assert note.startswith("torchvision is wanted by another package and left out: image variant 'cpu'")
    assert note.endswith("'full' (or 'cuda') has")
    assert "torchvision" in prune_lock(LOCK, image, keep_torch=True).packages


@pytest.mark.parametrize("text", ["numpy\n", "numpy==1.0\n", "-e .\n", "--index-url x\n", "a @ file:///x\n"])
def test_a_lock_that_is_none_is_refused(image: NodeImage, text: str) -> None:
    with pytest.raises(BuildFailedError):
        prune_lock(text, image, keep_torch=False)
