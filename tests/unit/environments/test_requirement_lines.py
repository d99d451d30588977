"""What a requirements.txt may say, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.environment_errors import DependencyRefusedError
from sandbox.requirement_lines import MAX_BYTES, parse_requirement, read_requirements


def written(pack: Path, text: str | bytes) -> Path:
    (pack / "requirements.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return pack


def texts(pack: Path) -> list[str]:
    return [f"{item.requirement} @ {item.place}" for item in read_requirements(pack).wanted]


def test_names_versions_extras_markers_and_comments_are_read(pack: Path) -> None:
    written(
        pack,
        "# a comment\n\nnumpy<2  # why\nPillow\nrequests[socks]>=2,<3\ntyping-extensions; python_version < '3.13'\n",
    )
    assert texts(pack) == [
        "numpy<2 @ requirements.txt:3",
        "Pillow @ requirements.txt:4",
        "requests[socks]<3,>=2 @ requirements.txt:5",
        'typing-extensions; python_version < "3.13" @ requirements.txt:6',
    ]


def test_a_line_goes_on_after_a_backslash_and_hashes_are_dropped(pack: Path) -> None:
    written(pack, "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\ntqdm\n")
    assert texts(pack) == ["numpy==1.26.4 @ requirements.txt:1", "tqdm @ requirements.txt:4"]


def test_files_inside_the_pack_are_included_and_constraints_kept_apart(pack: Path) -> None:
    (pack / "more").mkdir()
    (pack / "more" / "a.txt").write_text("tqdm\n-r b.txt\n-r ../requirements.txt\n")
    (pack / "more" / "b.txt").write_text("einops\n")
    (pack / "limits.txt").write_text("numpy<2\n")
    found = read_requirements(written(pack, "-r more/a.txt\n--constraint=limits.txt\n"))
    assert [str(item.requirement) for item in found.wanted] == ["tqdm", "einops"]
    assert [f"{item.requirement} @ {item.place}" for item in found.constraints] == ["numpy<2 @ limits.txt:1"]


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example/simple",
        "-i https://index.example/simple",
        "--extra-index-url=https://index.example/cu121",
        "--find-links ./wheels",
        "-f wheels",
        "--trusted-host index.example",
        "--no-binary :all:",
        "--pre",
        "-e .",
        "--editable ./lib",
        "file:///etc",
        "name @ file:///etc",
        "./lib",
        "../lib",
        "/opt/lib",
        "~/lib",
        "wheels/name-1.0-py3-none-any.whl",
        "C:\\lib",
        "${HOME}/lib",
        "na me",
        "numpy=1.2",
        "numpy" + "a" * 2_000,
    ],
)
def test_whatever_steers_the_installer_elsewhere_is_refused_with_its_line(pack: Path, line: str) -> None:
    with pytest.raises(DependencyRefusedError) as caught:
        read_requirements(written(pack, f"tqdm\n{line}\n"))
    assert caught.value.place == "requirements.txt:2"
    assert str(caught.value).startswith("requirements.txt:2: ")


@pytest.mark.parametrize(
    "line",
    [
        "git+https://host.example/owner/repo.git",
        "git+ssh://git@host.example/owner/repo",
        "name @ git+https://host.example/owner/repo",
        "name[extra]@https://host.example/name-1.0-py3-none-any.whl",
        "https://host.example/name-1.0.tar.gz",
        "HTTP://host.example/x",
    ],
)
def test_what_is_fetched_from_elsewhere_is_left_out_and_said(pack: Path, line: str) -> None:
    found = read_requirements(written(pack, f"tqdm\n{line}\n"))
    assert [str(item.requirement) for item in found.wanted] == ["tqdm"]
    (note,) = found.notes
    assert note.startswith(
        f"requirements.txt:2: '{line}' is a URL or a path, not a package of the index: left out"
    )
    with pytest.raises(DependencyRefusedError):
        parse_requirement(line, "here")


@pytest.mark.parametrize(
    "line",
    [
        "-r ../outside.txt",
        "-r /etc/hostname",
        "-rmissing.txt",
        "-c ../outside.txt",
        "-r https://host.example/r.txt",
        f"-r {'long' * 100}.txt",
    ],
)
def test_includes_out_of_the_pack_are_refused(pack: Path, line: str) -> None:
    (pack.parent / "outside.txt").write_text("secret\n")
    with pytest.raises(DependencyRefusedError, match="does not name a file inside the pack"):
        read_requirements(written(pack, line))


def test_a_link_out_of_the_pack_is_refused_as_an_include(pack: Path) -> None:
    (pack.parent / "outside.txt").write_text("secret\n")
    (pack / "link.txt").symlink_to(pack.parent / "outside.txt")
    with pytest.raises(DependencyRefusedError, match="inside the pack"):
        read_requirements(written(pack, "-r link.txt"))


def test_sizes_are_bounded(pack: Path) -> None:
    with pytest.raises(DependencyRefusedError, match="more than 64 KiB"):
        read_requirements(written(pack, "#" * (MAX_BYTES + 1)))
    with pytest.raises(DependencyRefusedError, match="more than 500"):
        read_requirements(written(pack, "".join(f"p{n}\n" for n in range(501))))


def test_other_encodings_are_read_or_refused(pack: Path) -> None:
    assert texts(written(pack, "numpy\n".encode("utf-16"))) == ["numpy @ requirements.txt:1"]
    assert texts(written(pack, b"\xef\xbb\xbfnumpy\n")) == ["numpy @ requirements.txt:1"]
    with pytest.raises(DependencyRefusedError, match="UTF-8"):
        read_requirements(written(pack, b"numpy\xff\n"))


@given(st.text(max_size=60))
def test_any_text_is_a_requirement_by_name_or_refused(text: str) -> None:
    try:
        requirement = parse_requirement(text, "here")
    except DependencyRefusedError:
        return
    assert requirement.url is None
    assert "/" not in requirement.name
