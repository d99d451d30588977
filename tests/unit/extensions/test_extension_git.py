"""Cloning a pack without running anything of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import anyio
import pytest

from engine.extension_errors import SourceRefusedError
from engine.extension_git import GitLimits, GitSource, clone, parse_source

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://host.example/owner/repo", "https://host.example/owner/repo", None),
        ("https://host.example/owner/repo.git@v1.2", "https://host.example/owner/repo.git", "v1.2"),
        ("https://host.example/owner/repo@" + "a" * 40, "https://host.example/owner/repo", "a" * 40),
        ("ssh://git@host.example/owner/repo@main", "ssh://git@host.example/owner/repo", "main"),
        ("git@host.example:owner/repo", "git@host.example:owner/repo", None),
        ("git@host.example:owner/repo@main", "git@host.example:owner/repo", "main"),
        ("file:///srv/repo", "file:///srv/repo", None),
    ],
)
def test_urls_with_and_without_a_ref(text: str, url: str, ref: str | None) -> None:
    assert parse_source(text) == GitSource(url, ref)


def test_everything_else_is_a_path() -> None:
    assert parse_source("packs/my pack@2") == Path("packs/my pack@2")


def test_a_repository_has_a_name() -> None:
    assert GitSource("https://host.example/owner/My-Pack.git").name == "My-Pack"
    assert GitSource("git@host.example:My-Pack").name == "My-Pack"


@pytest.mark.parametrize(
    "text",
    [
        "http://host.example/owner/repo",
        "ext::sh -c touch% /tmp/x://a/b",
        "https://user:token@host.example/owner/repo",
        "https://token@host.example/owner/repo",
        "https://host.example/owner/repo@--upload-pack=x",
        "https://host.example/owner/repo@a..b",
        "https://host.example/owner/repo@",
        "ssh://-oProxyCommand=x/owner/repo",
        "https://host.example/owner/re po",
    ],
)
def test_dangerous_urls_and_refs_are_refused(text: str) -> None:
    with pytest.raises(SourceRefusedError):
        parse_source(text)


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "repo"
    directory.mkdir()
    git(directory, "init", "-q")
    (directory / "__init__.py").write_text("one\n")
    git(directory, "add", ".")
    git(directory, "commit", "-qm", "one")
    git(directory, "tag", "v1")
    (directory / "__init__.py").write_text("two\n")
    git(directory, "commit", "-qam", "two")
    return directory


@needs_git
@pytest.mark.anyio
async def test_the_default_branch_a_tag_or_a_commit(repository: Path, tmp_path: Path) -> None:
    url = f"file://{repository}"
    first = git(repository, "rev-parse", "v1")
    lines: list[str] = []
    commit = await clone(GitSource(url), tmp_path / "a", GitLimits(), lines.append)
    assert (tmp_path / "a" / "__init__.py").read_text() == "two\n"
    assert commit == git(repository, "rev-parse", "HEAD")
    assert await clone(GitSource(url, "v1"), tmp_path / "b", GitLimits(), lines.append) == first
    assert (tmp_path / "b" / "__init__.py").read_text() == "one\n"
    git(repository, "config", "uploadpack.allowAnySHA1InWant", "true")
    assert await clone(GitSource(url, first), tmp_path / "c", GitLimits(), lines.append) == first
    assert lines[0] == f"fetching {url}"


@needs_git
@pytest.mark.anyio
async def test_no_filter_or_submodule_of_the_repository_runs(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (repository / ".gitattributes").write_text("* filter=lfs\n")
    (repository / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = ext::touch {proof}\n')
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "hostile")
    await clone(GitSource(f"file://{repository}"), tmp_path / "a", GitLimits(), print)
    assert not proof.exists()
    assert (tmp_path / "a" / "__init__.py").read_text() == "two\n"


@needs_git
@pytest.mark.anyio
async def test_what_git_says_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match="git could not fetch"):
        await clone(GitSource(f"file://{tmp_path}/nothere"), tmp_path / "a", GitLimits(), print)


@needs_git
@pytest.mark.anyio
async def test_a_clone_is_bounded_in_size_and_time(repository: Path, tmp_path: Path) -> None:
    url = f"file://{repository}"
    with anyio.fail_after(60), pytest.raises(SourceRefusedError):
        await clone(GitSource(url), tmp_path / "a", GitLimits(nbytes=10), print)
    with anyio.fail_after(60), pytest.raises(SourceRefusedError, match="took longer"):
        await clone(GitSource(url), tmp_path / "b", GitLimits(timeout_s=0), print)
