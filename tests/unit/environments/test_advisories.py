"""A database in OSV's format, well-formed and hostile; versions as PEP 440 orders them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.advisories import AdvisoryDatabase, AdvisoryDatabaseError
from sandbox.advisory_entries import parse_advisory
from sandbox.cvss import base_score, level_of
from sandbox.inventory import Package

GHSA: dict[str, Any] = {
    "schema_version": "1.6.0",
    "id": "GHSA-aaaa-bbbb-cccc",
    "modified": "2024-05-01T10:00:00Z",
    "published": "2024-04-01T10:00:00Z",
    "aliases": ["CVE-2024-0001"],
    "summary": "Arbitrary code execution in Victim",
    "details": "Long text.",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Victim", "purl": "pkg:pypi/victim"},
            "ranges": [
                {
                    "type": "ECOSYSTEM",
                    "events": [
                        {"introduced": "0"},
                        {"fixed": "1.2"},
                        {"introduced": "2.0rc1"},
                        {"last_affected": "2.3"},
                    ],
                }
            ],
            "versions": ["7.0"],
        }
    ],
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
    "database_specific": {"severity": "CRITICAL"},
}
PYSEC: dict[str, Any] = {
    "id": "PYSEC-2024-1",
    "modified": "2024-06-01T10:00:00Z",
    "aliases": ["CVE-2024-0001"],
    "details": "The same.",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "victim"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]}],
        }
    ],
}


def package(version: str, name: str = "victim") -> Package:
    return Package(name, version, "environment")


def database(directory: Path, *entries: object) -> AdvisoryDatabase:
    with zipfile.ZipFile(directory / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, entry in enumerate(entries):
            text = entry if isinstance(entry, str | bytes) else json.dumps(entry)
            archive.writestr(f"E-{number}.json", text)
    return AdvisoryDatabase(directory)


@pytest.mark.parametrize(
    ("version", "is_known"),
    [
        ("1.0", True),
        ("1.1.9", True),
        ("1.2.dev1", True),
        ("1.2", False),
        ("1.2.post1", False),
        ("2.0b1", False),
        ("2.0rc1", True),
        ("2.3", True),
        ("2.3.0+cpu", True),
        ("2.3.1", False),
        ("7.0", True),
        ("7.0.0", True),
        ("7.1", False),
        ("not a version", False),
    ],
)
def test_versions_are_compared_as_pep_440_orders_them(tmp_path: Path, version: str, is_known: bool) -> None:
    assert bool(database(tmp_path, GHSA).findings([package(version)])) is is_known


def test_a_finding_says_what_how_bad_and_what_to_take_instead(tmp_path: Path) -> None:
    (finding,) = database(tmp_path, GHSA, PYSEC).findings([package("1.0"), package("1.0", "other")])
    assert (finding.id, finding.level, finding.score, finding.fixed_in) == (
        "GHSA-aaaa-bbbb-cccc",
        "critical",
        9.8,
        "1.2",
    )
    assert finding.aliases == ("CVE-2024-0001", "PYSEC-2024-1")
    assert finding.summary == "Arbitrary code execution in Victim"


def test_the_worst_comes_first(tmp_path: Path) -> None:
    low = {**GHSA, "id": "GHSA-low", "aliases": [], "severity": [], "database_specific": {"severity": "LOW"}}
    malicious = {**PYSEC, "id": "MAL-2024-7", "aliases": []}
    unknown = {**PYSEC, "id": "PYSEC-2", "aliases": []}
    found = database(tmp_path, unknown, low, malicious).findings([package("1.0")])
    assert [(each.id, each.level) for each in found] == [
        ("MAL-2024-7", "critical"),
        ("GHSA-low", "low"),
        ("PYSEC-2", "unknown"),
    ]


def test_what_was_withdrawn_or_is_of_another_world_does_not_count(tmp_path: Path) -> None:
    other = json.loads(json.dumps(GHSA).replace('"PyPI"', '"npm"'))
    withdrawn = {**GHSA, "withdrawn": "2024-07-01T00:00:00Z"}
    assert database(tmp_path, other, withdrawn).findings([package("1.0")]) == ()


HOSTILE = [
    b"\xff\xfe not json",
    "[]",
    "null",
    '{"id": 7}',
    '{"id": "../../etc/passwd"}',
    '{"id": "X-1", "affected": {"package": "x"}}',
    '{"id": "X-1", "affected": ' + "[" * 5000 + "]" * 5000 + "}",
    json.dumps({**GHSA, "affected": [GHSA["affected"][0]] * 201}),
    json.dumps(GHSA).replace('"1.2"', '"<script>"'),
    "x" * (1024 * 1024 + 1),
    '{"id": "X-1", "id": "X-2"}',
]


def test_hostile_entries_are_counted_and_left_out_and_the_others_hold(tmp_path: Path) -> None:
    found = database(tmp_path, *HOSTILE, GHSA)
    assert found.facts().entries == len(HOSTILE) + 1
    assert found.facts().refused == len(HOSTILE)
    assert found.facts().newest == "2024-05-01T10:00:00Z"
    assert len(found.findings([package("1.0")])) == 1


def test_text_of_an_entry_is_made_safe_for_a_screen(tmp_path: Path) -> None:
    (finding,) = database(tmp_path, {**GHSA, "summary": "a\x1b[2Jb\nc" + "x" * 1000}).findings(
        [package("1.0")]
    )
    assert "\x1b" not in finding.summary
    assert "\n" not in finding.summary
    assert len(finding.summary) <= 240


def test_a_database_may_be_a_directory_of_files_and_is_read_again_when_it_changes(tmp_path: Path) -> None:
    found = AdvisoryDatabase(tmp_path)
    with pytest.raises(AdvisoryDatabaseError, match=r"no all.zip and no entry"):
        found.facts()
    (tmp_path / "PYSEC-2024-1.json").write_text(json.dumps(PYSEC))
    assert len(found.findings([package("1.0")])) == 1
    (tmp_path / "GHSA-x.json").write_text(json.dumps({**GHSA, "aliases": []}))
    assert len(found.findings([package("1.0")])) == 2


def test_no_database_says_so_and_what_to_set() -> None:
    with pytest.raises(AdvisoryDatabaseError) as caught:
        AdvisoryDatabase(None).findings([])
    assert "RINGFENCE_OSV_DIR" in caught.value.hint


def test_a_zip_that_is_none_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_bytes(b"PK not a zip")
    with pytest.raises(AdvisoryDatabaseError) as caught:
        AdvisoryDatabase(tmp_path).facts()
    assert "RINGFENCE_OSV_DIR" in caught.value.hint


def test_an_entry_of_a_zip_is_read_no_further_than_the_limit_whatever_it_says_of_its_size(
    tmp_path: Path,
) -> None:
    found = database(tmp_path, b"0" * (64 * 1024 * 1024), GHSA)
    assert found.facts().refused == 1


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.0/AV:L/AC:H/PR:L/UI:N/S:U/C:H/I:N/A:N", 4.7),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:H", 9.9),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
        ("CVSS:3.1/AV:N", None),
        ("nonsense", None),
    ],
)
def test_a_vector_has_the_score_that_the_specification_gives_it(vector: str, score: float | None) -> None:
    assert base_score(vector) == score


def test_the_words_for_scores() -> None:
    assert [level_of(score) for score in (9.8, 7.0, 4.0, 0.1, 0.0)] == [
        "critical",
        "high",
        "medium",
        "low",
        "none",
    ]


def test_an_entry_without_packages_of_pypi_concerns_nobody() -> None:
    assert parse_advisory({"id": "X-1"}) is None
