"""``folder_paths``: where models, inputs and outputs are, as packs see it inside their sandbox.

The tables are plain mutable objects, because packs change them in place. All paths lie below the sandbox's own
application directory; what a tenant's files are there is the host's decision, not this module's.
"""

from __future__ import annotations

import mimetypes
import os
import re
import time
from collections.abc import Collection
from typing import Any, Literal, Self

from ..sdk import paths

#: Four popular packs take the folder of this file for ComfyUI's root.
__file__ = os.path.join(paths.app(), "folder_paths.py")

supported_pt_extensions: set[str] = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}

base_path: str = paths.app()
models_dir: str = paths.models()
output_directory: str = paths.output()
temp_directory: str = paths.temp()
input_directory: str = paths.input()
user_directory: str = paths.user()


_NO_MODELS = (
    "; the policy of this extension has no path in 'models': write '{tenant: models}' below its 'paths:'"
)


def _model_folders(*names: str) -> list[str]:
    return [os.path.join(models_dir, name) for name in names]


_WEIGHTS = supported_pt_extensions
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    "checkpoints": (_model_folders("checkpoints"), _WEIGHTS),
    "configs": (_model_folders("configs"), {".yaml"}),
    "loras": (_model_folders("loras"), _WEIGHTS),
    "vae": (_model_folders("vae"), _WEIGHTS),
    "text_encoders": (_model_folders("text_encoders", "clip"), _WEIGHTS),
    "diffusion_models": (_model_folders("unet", "diffusion_models"), _WEIGHTS),
    "clip_vision": (_model_folders("clip_vision"), _WEIGHTS),
    "style_models": (_model_folders("style_models"), _WEIGHTS),
    "embeddings": (_model_folders("embeddings"), _WEIGHTS),
    "diffusers": (_model_folders("diffusers"), {"folder"}),
    "vae_approx": (_model_folders("vae_approx"), _WEIGHTS),
    "controlnet": (_model_folders("controlnet", "t2i_adapter"), _WEIGHTS),
    "gligen": (_model_folders("gligen"), _WEIGHTS),
    "upscale_models": (_model_folders("upscale_models"), _WEIGHTS),
    "latent_upscale_models": (_model_folders("latent_upscale_models"), _WEIGHTS),
    "custom_nodes": ([os.path.join(base_path, "custom_nodes")], set()),
    "hypernetworks": (_model_folders("hypernetworks"), _WEIGHTS),
    "photomaker": (_model_folders("photomaker"), _WEIGHTS),
    "classifiers": (_model_folders("classifiers"), {""}),
    "model_patches": (_model_folders("model_patches"), _WEIGHTS),
    "audio_encoders": (_model_folders("audio_encoders"), _WEIGHTS),
    "background_removal": (_model_folders("background_removal"), _WEIGHTS),
    "frame_interpolation": (_model_folders("frame_interpolation"), _WEIGHTS),
    "geometry_estimation": (_model_folders("geometry_estimation"), _WEIGHTS),
    "optical_flow": (_model_folders("optical_flow"), _WEIGHTS),
    "detection": (_model_folders("detection"), _WEIGHTS),
}

#: folder name -> (files, {directory: modification time}, when it was read)
filename_list_cache: dict[str, tuple[list[str], dict[str, float], float]] = {}
extension_mimetypes_cache: dict[str, str] = {"webp": "image", "fbx": "model"}


class CacheHelper:
    """Within ``with cache_helper:`` each file list is read from disk once at most."""

    def __init__(self) -> None:
        self.cache: dict[str, tuple[list[str], dict[str, float], float]] = {}
        self.active = False

    def get(self, key: str, default: Any = None) -> Any:
        return self.cache.get(key, default) if self.active else default

    def set(self, key: str, value: tuple[list[str], dict[str, float], float]) -> None:
        if self.active:
            self.cache[key] = value

    def clear(self) -> None:
        self.cache.clear()

    def __enter__(self) -> Self:
        self.active = True
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        self.clear()


cache_helper = CacheHelper()


def map_legacy(folder_name: str) -> str:
    """Today's name of a model folder that had another one once."""
    return {"unet": "diffusion_models", "clip": "text_encoders"}.get(folder_name, folder_name)


# -- the four places -----------------------------------------------------------------------------------------------
def set_output_directory(output_dir: str) -> None:
    global output_directory
    output_directory = output_dir


def set_temp_directory(temp_dir: str) -> None:
    global temp_directory
    temp_directory = temp_dir


def set_input_directory(input_dir: str) -> None:
    global input_directory
    input_directory = input_dir


def set_user_directory(user_dir: str) -> None:
    global user_directory
    user_directory = user_dir


def get_output_directory() -> str:
    return output_directory


def get_temp_directory() -> str:
    return temp_directory


def get_input_directory() -> str:
    return input_directory


def get_user_directory() -> str:
    return user_directory


def get_system_user_directory(name: str = "system") -> str:
    """A folder below ``user/`` that is not some user's: ``user/__<name>``."""
    if re.fullmatch(r"[^\W_]\w*", name or "") is None:
        raise ValueError(f"not a name for a system folder: {name!r}")
    return os.path.join(get_user_directory(), f"__{name}")


def get_public_user_directory(user_id: str) -> str | None:
    """A user's own folder; None for a name that would be a system folder or lead elsewhere."""
    if (
        not user_id
        or user_id.startswith("__")
        or os.path.basename(user_id) != user_id
        or user_id in (".", "..")
    ):
        return None
    return os.path.join(get_user_directory(), user_id)


def get_directory_by_type(type_name: str) -> str | None:
    """The directory that "input", "output" or "temp" stands for, else None."""
    places = {"output": get_output_directory, "temp": get_temp_directory, "input": get_input_directory}
    getter = places.get(type_name)
    return getter() if getter is not None else None


def get_input_subfolders() -> list[str]:
    """All folders below the input directory, relative to it, sorted."""
    root = get_input_directory()
    found = []
    for folder, names, _ in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in names]
    return sorted(found)


# -- names with an annotation: "cat.png [output]" ------------------------------------------------------------------
def annotated_filepath(name: str) -> tuple[str, str | None]:
    """Split ``"cat.png [output]"`` into the bare name and the directory meant (None without an annotation)."""
    for kind in ("output", "input", "temp"):
        ending = f"[{kind}]"
        if name.endswith(ending):
            return name[: -len(ending)].rstrip(" "), get_directory_by_type(kind)
    return name, None


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    """The path that a file choice means; names without an annotation lie in ``default_dir``, else in the inputs.

    Raises:
        ValueError: the name leads out of its directory.
    """
    bare, directory = annotated_filepath(name)
    if directory is None:
        directory = default_dir if default_dir is not None else get_input_directory()
    path = os.path.join(directory, bare)
    if not _is_below(path, directory):
        raise ValueError(f"{name!r} leads out of {directory}")
    return path


def exists_annotated_filepath(name: str) -> bool:
    try:
        return os.path.exists(get_annotated_filepath(name))
    except ValueError:
        return False


def _is_below(path: str, directory: str) -> bool:
    top = os.path.abspath(directory)
    return os.path.commonpath((top, os.path.abspath(path))) == top


# -- model folders -------------------------------------------------------------------------------------------------
def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Add a directory to a model folder; a new folder name takes files of every kind."""
    folder_name = map_legacy(folder_name)
    directories, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path in directories:
        if not is_default or directories[0] == full_folder_path:
            return
        directories.remove(full_folder_path)
    if is_default:
        directories.insert(0, full_folder_path)
    else:
        directories.append(full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return folder_names_and_paths[map_legacy(folder_name)][0][:]


def recursive_search(
    directory: str, excluded_dir_names: list[str] | None = None
) -> tuple[list[str], dict[str, float]]:
    """All files below a directory (links followed), relative to it, and each folder's modification time."""
    if not os.path.isdir(directory):
        return [], {}
    excluded = set(excluded_dir_names or ())
    files: list[str] = []
    times: dict[str, float] = {}
    seen: set[str] = set()
    for folder, names, entries in os.walk(directory, followlinks=True, topdown=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            names[:] = []
            continue
        seen.add(real)
        try:
            times[folder] = os.path.getmtime(folder)
        except OSError:
            continue
        names[:] = [name for name in names if name not in excluded]
        files += [os.path.relpath(os.path.join(folder, entry), directory) for entry in entries]
    return files, times


def filter_files_extensions(files: Collection[str], extensions: Collection[str]) -> list[str]:
    """The files with one of the suffixes, sorted; no suffixes at all means every file."""
    wanted = set(extensions)
    return sorted(
        file
        for file in files
        if not wanted or "folder" in wanted or os.path.splitext(file)[-1].lower() in wanted
    )


def filter_files_content_types(
    files: list[str], content_types: list[Literal["image", "video", "audio", "model"]]
) -> list[str]:
    """The files whose name says that they are of one of the kinds."""
    return [file for file in files if _content_type(file) in content_types]


def _content_type(file: str) -> str | None:
    extension = os.path.splitext(file)[1].lstrip(".").lower()
    if extension not in extension_mimetypes_cache:
        guessed, _ = mimetypes.guess_type(f"x.{extension}", strict=False)
        if guessed is None:
            return None
        extension_mimetypes_cache[extension] = guessed.partition("/")[0]
    return extension_mimetypes_cache[extension]


def get_full_path(folder_name: str, filename: str) -> str | None:
    """The first file of that name in a model folder; None when there is none. ``..`` never leads out."""
    below = os.path.normpath(f"/{filename}").lstrip("/")
    directories, _ = folder_names_and_paths.get(map_legacy(folder_name), ([], set()))
    candidates = (os.path.join(directory, below) for directory in directories)
    return next(filter(os.path.isfile, candidates), None)


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    """As ``get_full_path``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = get_full_path(folder_name, filename)
    if path is None:
        hint = "" if paths.is_granted("models") else _NO_MODELS
        raise FileNotFoundError(f"no file {filename!r} in the model folder {folder_name!r}{hint}")
    return path


def get_filename_list_(folder_name: str) -> tuple[list[str], dict[str, float], float]:
    """Read a model folder from disk."""
    directories, extensions = folder_names_and_paths[map_legacy(folder_name)]
    files: set[str] = set()
    times: dict[str, float] = {}
    for directory in directories:
        found, folder_times = recursive_search(directory, excluded_dir_names=[".git"])
        files.update(filter_files_extensions(found, extensions))
        times.update(folder_times)
    return sorted(files), times, time.perf_counter()


def cached_filename_list_(folder_name: str) -> tuple[list[str], dict[str, float], float] | None:
    """The list read earlier, if no directory has changed since."""
    kept: tuple[list[str], dict[str, float], float] | None = cache_helper.get(folder_name)
    if kept is not None:
        return kept
    kept = filename_list_cache.get(folder_name)
    if kept is None:
        return None
    times = kept[1]
    for directory in folder_names_and_paths[folder_name][0]:
        if os.path.isdir(directory) and directory not in times:
            return None
    for directory, when in times.items():
        try:
            if os.path.getmtime(directory) != when:
                return None
        except OSError:
            return None
    return kept


def get_filename_list(folder_name: str) -> list[str]:
    """The files in a model folder, with their subfolders, sorted.

    Raises:
        KeyError: there is no model folder of that name.
    """
    name = map_legacy(folder_name)
    listing = cached_filename_list_(name)
    if listing is None:
        filename_list_cache[name] = listing = get_filename_list_(name)
    cache_helper.set(name, listing)
    files, *_ = listing
    return list(files)


# -- saving --------------------------------------------------------------------------------------------------------
def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Where the next file of a prefix goes: (folder, file stem, next number, subfolder, prefix filled in).

    Raises:
        ValueError: the prefix leads out of the output directory.
        PermissionError: the policy does not give this directory, so nobody would find what is saved there.
    """
    for area, place in (("output", paths.output()), ("temp", paths.temp())):
        if _is_below(output_dir, place) and not paths.is_granted(area):
            raise PermissionError(
                f"the policy of this extension has no path in {area!r}: what is saved there would be lost; "
                f"write '{{tenant: {area}, access: rw}}' below its 'paths:'"
            )
    prefix = _fill_in(filename_prefix, image_width, image_height)
    subfolder, stem = os.path.split(os.path.normpath(prefix))
    folder = os.path.join(output_dir, subfolder)
    if not _is_below(folder, output_dir):
        raise ValueError(f"files may be saved below {output_dir} only; {filename_prefix!r} leads to {folder}")
    os.makedirs(folder, exist_ok=True)
    numbers = [_number_of(name, stem) for name in os.listdir(folder)]
    return folder, stem, max(numbers, default=0) + 1, subfolder, prefix


def _fill_in(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02d}",
        "day": f"{now.tm_mday:02d}",
        "hour": f"{now.tm_hour:02d}",
        "minute": f"{now.tm_min:02d}",
        "second": f"{now.tm_sec:02d}",
    }
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix


def _number_of(name: str, stem: str) -> int:
    """The number in ``<stem>_<digits>_...`` or ``<stem>_<digits>.<ext>``; 0 for any other name."""
    if not os.path.normcase(name).startswith(os.path.normcase(stem) + "_"):
        return 0
    digits = name[len(stem) + 1 :].split("_", 1)[0].split(".", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
