"""Directories, annotated names, model folders, names of saved files."""

import os
import time

import pytest

from runtime.compat import folder_paths
from runtime.sdk import paths


def test_the_module_claims_to_lie_in_the_application_directory():
    assert os.path.dirname(folder_paths.__file__) == folder_paths.base_path


def test_every_documented_model_folder_is_there():
    names = set(folder_paths.folder_names_and_paths)
    assert {
        "checkpoints",
        "loras",
        "vae",
        "text_encoders",
        "diffusion_models",
        "controlnet",
        "custom_nodes",
    } <= names


def test_annotations_choose_the_directory(places):
    assert folder_paths.annotated_filepath("a.png [output]") == ("a.png", str(places / "output"))
    assert folder_paths.annotated_filepath("a.png") == ("a.png", None)
    assert folder_paths.get_annotated_filepath("a.png") == str(places / "input" / "a.png")
    assert folder_paths.get_annotated_filepath("a.png", "/elsewhere") == "/elsewhere/a.png"


def test_an_annotated_name_cannot_leave_its_directory(places):
    with pytest.raises(ValueError, match="leads out"):
        folder_paths.get_annotated_filepath("../../etc/passwd")
    assert not folder_paths.exists_annotated_filepath("../output")
    assert not folder_paths.exists_annotated_filepath("/etc/passwd")


def test_files_are_listed_with_subfolders_sorted_and_by_suffix(places):
    (places / "models/b").mkdir()
    for name in ("z.safetensors", "a.SAFETENSORS", "b/c.safetensors", "readme.txt"):
        (places / "models" / name).touch()
    assert folder_paths.get_filename_list("loras") == ["a.SAFETENSORS", "b/c.safetensors", "z.safetensors"]


def test_a_new_file_appears_in_the_list(places):
    assert folder_paths.get_filename_list("loras") == []
    (places / "models/new.safetensors").touch()
    os.utime(places / "models", (time.time() + 5, time.time() + 5))
    assert folder_paths.get_filename_list("loras") == ["new.safetensors"]


def test_a_link_in_a_circle_does_not_hang(places):
    (places / "models/loop").symlink_to(places / "models")
    (places / "models/a.safetensors").touch()
    assert folder_paths.get_filename_list("loras") == ["a.safetensors"]


def test_an_unknown_folder_is_a_key_error_and_a_missing_file_is_none(places):
    with pytest.raises(KeyError):
        folder_paths.get_filename_list("nothing")
    assert folder_paths.get_full_path("nothing", "x") is None
    assert folder_paths.get_full_path("loras", "x") is None
    with pytest.raises(FileNotFoundError, match=r"'x'.*'loras'"):
        folder_paths.get_full_path_or_raise("loras", "x")


def test_a_full_path_stays_in_its_folder(places):
    (places / "secret.safetensors").touch()
    assert folder_paths.get_full_path("loras", "../secret.safetensors") is None


def test_a_folder_added_by_a_pack_takes_all_files(places):
    folder_paths.add_model_folder_path("luts", str(places / "input"))
    folder_paths.add_model_folder_path("luts", str(places / "output"), is_default=True)
    folder_paths.add_model_folder_path("luts", str(places / "output"))
    assert folder_paths.get_folder_paths("luts") == [str(places / "output"), str(places / "input")]
    (places / "input/x.cube").touch()
    assert folder_paths.get_filename_list("luts") == ["x.cube"]


def test_a_table_entry_replaced_by_a_pack_is_used(places):
    folder_paths.folder_names_and_paths["loras"] = ([str(places / "temp")], {".bin"})
    (places / "temp/a.bin").touch()
    assert folder_paths.get_filename_list("loras") == ["a.bin"]


def test_old_folder_names_still_work(monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", (["/x"], set()))
    assert folder_paths.get_folder_paths("unet") == ["/x"]


def test_files_are_sorted_by_what_their_names_say():
    files = ["a.png", "b.WEBP", "c.mp4", "d.txt", "e", "f.wav"]
    assert folder_paths.filter_files_content_types(files, ["image"]) == ["a.png", "b.WEBP"]
    assert folder_paths.filter_files_content_types(files, ["video", "audio"]) == ["c.mp4", "f.wav"]


def test_saved_files_are_numbered_after_those_that_are_there(places):
    out = places / "output"
    for name in ("pic_00003_.png", "pic_7_x.png", "pic_00009.flac", "picture_00020_.png", "pic_abc_.png"):
        (out / name).touch()
    folder, stem, counter, subfolder, prefix = folder_paths.get_save_image_path("pic", str(out))
    assert (folder, stem, counter, subfolder, prefix) == (f"{out}/", "pic", 10, "", "pic")


def test_a_prefix_may_name_a_subfolder_and_placeholders(places):
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
        "sub/%width%x%height%_%year%", str(places / "output"), 64, 32
    )
    assert stem == f"64x32_{time.localtime().tm_year}"
    assert (subfolder, counter) == ("sub", 1)
    assert os.path.isdir(folder)


@pytest.mark.parametrize("prefix", ["../out", "a/../../out", "/etc/out"])
def test_a_prefix_cannot_lead_out_of_the_output_directory(places, prefix):
    with pytest.raises(ValueError, match="may be saved below"):
        folder_paths.get_save_image_path(prefix, str(places / "output"))


def test_user_folders_do_not_mix_with_system_ones(places):
    assert folder_paths.get_public_user_directory("__system") is None
    assert folder_paths.get_public_user_directory("../x") is None
    assert folder_paths.get_public_user_directory("anna") == str(places / "user/anna")
    assert folder_paths.get_system_user_directory("manager") == str(places / "user/__manager")
    with pytest.raises(ValueError, match="not a name"):
        folder_paths.get_system_user_directory("../x")


@pytest.mark.parametrize("area", ["output", "temp"])
def test_saving_where_the_policy_gives_nothing_says_what_to_write(places, monkeypatch, area):
    monkeypatch.setattr(paths, area, lambda: str(places / area))
    monkeypatch.setattr(paths, "is_granted", lambda asked: asked != area)
    with pytest.raises(
        PermissionError, match=rf"write '\{{tenant: {area}, access: rw\}}' below its 'paths:'"
    ):
        folder_paths.get_save_image_path("x", str(places / area / "sub"))
    assert folder_paths.get_save_image_path("x", str(places / "input"))[2] == 1


def test_a_missing_model_says_when_the_policy_gives_no_models(places, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file 'a.safetensors' in the model folder 'loras'$"):
        folder_paths.get_full_path_or_raise("loras", "a.safetensors")
    monkeypatch.setattr(paths, "is_granted", lambda area: area != "models")
    with pytest.raises(FileNotFoundError, match=r"write '\{tenant: models\}' below its 'paths:'"):
        folder_paths.get_full_path_or_raise("loras", "a.safetensors")
