from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PathEscapeError, open_beneath, resolve_beneath
from policies.paths import is_inside, resolve_in_roots


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.txt").write_text("inside")
    (tmp_path / "models-secret").mkdir()
    (tmp_path / "models-secret" / "key").write_text("secret")
    return root


def test_a_file_below_the_root_is_found(root: Path) -> None:
    assert resolve_beneath(root, "sub/a.txt") == root / "sub" / "a.txt"
    assert resolve_beneath(root, "not/yet/there") == root / "not" / "yet" / "there"


@pytest.mark.parametrize("path", ["../x", "sub/../../x", "/etc/passwd", "sub/\0", ".."])
def test_a_path_that_climbs_or_starts_at_the_top_is_refused(root: Path, path: str) -> None:
    with pytest.raises(PathEscapeError) as caught:
        resolve_beneath(root, path)
    assert caught.value.hint


def test_a_link_out_of_the_root_is_refused_and_a_link_inside_is_followed(root: Path) -> None:
    (root / "out").symlink_to(root.parent / "models-secret")
    (root / "in").symlink_to("sub")
    assert resolve_beneath(root, "in/a.txt") == root / "sub" / "a.txt"
    with pytest.raises(PathEscapeError, match="leads out of its directory through a link"):
        resolve_beneath(root, "out/key")


def test_a_loop_of_links_is_an_escape_and_not_a_crash(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(PathEscapeError):
        resolve_beneath(root, "loop/x")


def test_a_neighbour_whose_name_begins_like_the_root_is_not_inside(root: Path) -> None:
    assert not is_inside(root.parent / "models-secret" / "key", root)
    with pytest.raises(PathEscapeError, match=r"is outside the allowed roots \(.*/models\)"):
        resolve_in_roots(root.parent / "models-secret", [root])


def test_a_root_that_is_itself_a_link_holds_what_it_leads_to(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    assert resolve_in_roots(alias / "sub", [root]) == root / "sub"
    assert resolve_in_roots(root / "sub", [alias]) == root / "sub"


def test_a_host_path_that_does_not_exist_or_is_a_socket_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PathEscapeError, match="No such file or directory; create it, or remove the line"):
        resolve_in_roots(root / "nothing", [root])
    monkeypatch.chdir(root)  # a socket's name has to be short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("engine.sock")
    with pytest.raises(PathEscapeError, match="neither a file nor a directory"):
        resolve_in_roots(root / "engine.sock", [root])


def test_a_refusal_without_any_root_says_where_roots_are_set(root: Path) -> None:
    with pytest.raises(PathEscapeError, match=r"\(none is set\).*'path_roots' in default.yaml"):
        resolve_in_roots(root, [])


def test_an_opened_file_is_read_without_following_links(root: Path) -> None:
    (root / "link").symlink_to("sub/a.txt")
    (root / "dir").symlink_to("sub")
    handle = open_beneath(root, "sub/a.txt")
    assert os.read(handle, 10) == b"inside"
    os.close(handle)
    for path in ("link", "dir/a.txt"):
        with pytest.raises(PathEscapeError, match="links are not followed here"):
            open_beneath(root, path)
    with pytest.raises(FileNotFoundError):
        open_beneath(root, "sub/b.txt")


def test_a_fifo_left_by_a_sandbox_neither_hangs_nor_opens(root: Path) -> None:
    os.mkfifo(root / "trap")
    with pytest.raises(PathEscapeError, match="not a regular file"):
        open_beneath(root, "trap")
    with pytest.raises(PathEscapeError, match="not a regular file"):
        open_beneath(root, "sub")


def test_no_descriptor_is_left_open_by_a_refusal(root: Path) -> None:
    (root / "link").symlink_to("sub/a.txt")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("link", "sub", "sub/nothing", "sub/a.txt/x"):
        with pytest.raises((PathEscapeError, FileNotFoundError)):
            open_beneath(root, path)
    assert len(os.listdir("/proc/self/fd")) == before


COMPONENTS = st.sampled_from(
    ["..", ".", "", "sub", "out", "up", "in", "a.txt", "key", "\0", "models-secret", "~"]
)


@given(st.lists(COMPONENTS, max_size=6))
def test_no_combination_of_components_and_links_leaves_the_root(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    base = tmp_path_factory.getbasetemp() / "property"
    root = base / "models"
    if not root.exists():
        (root / "sub").mkdir(parents=True)
        (base / "models-secret").mkdir()
        (base / "models-secret" / "key").write_text("secret")
        (root / "out").symlink_to(base / "models-secret")
        (root / "up").symlink_to("..")
        (root / "in").symlink_to("sub")
        (root / "sub" / "a.txt").write_text("inside")
    path = "/".join(parts)
    try:
        found = resolve_beneath(root, path)
    except PathEscapeError:
        pass
    else:
        assert os.path.commonpath([os.path.realpath(found), os.path.realpath(root)]) == os.path.realpath(root)
    try:
        handle = open_beneath(root, path)
    except (PathEscapeError, FileNotFoundError):
        return
    content = os.read(handle, 100)
    os.close(handle)
    assert content == b"inside"
