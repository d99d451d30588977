"""Versions against known escapes: upstream branches, and what Debian mended without a new number."""

from __future__ import annotations

import pytest

from api.runtime_versions import KNOWN, closes, debian_order, open_to

BY_NAME = {known.cve: known for known in KNOWN}


@pytest.mark.parametrize(
    ("cve", "version", "closed"),
    [
        ("CVE-2024-21626", "1.1.5+ds1-1+deb12u1", True),
        ("CVE-2024-21626", "1.1.5+ds1-1", False),
        ("CVE-2024-21626", "1.1.5+ds1-1+b2", False),
        ("CVE-2024-21626", "1.1.5", False),
        ("CVE-2024-21626", "1.1.12", True),
        ("CVE-2024-21626", "v1.1.12-0-g51d5e946", True),
        ("CVE-2024-21626", "1.1.12-rc1", False),
        ("CVE-2024-21626", "1.2.0", True),
        ("CVE-2019-5736", "1.0.0~rc6", False),
        ("CVE-2025-31133", "1.1.15+ds1-2", False),
        ("CVE-2025-31133", "1.2.7", False),
        ("CVE-2025-31133", "1.2.8", True),
        ("CVE-2025-31133", "1.3.0", False),
        ("CVE-2025-31133", "1.4.1", True),
        ("CVE-2024-40635", "1.6.20~ds1-1+deb12u3", True),
        ("CVE-2024-40635", "1.6.20~ds1-1+deb12u1", False),
        ("CVE-2024-40635", "unknown", False),
        ("CVE-2023-7258", "0.0~20240729.0", True),
        ("CVE-2023-7258", "0.0~20221219.0", False),
        ("CVE-2023-7258", "release-20250101.0", True),
        ("CVE-2023-7258", "x", False),
    ],
)
def test_a_version_is_mended_by_its_branch_or_by_its_distribution(
    cve: str, version: str, closed: bool
) -> None:
    assert closes(version, BY_NAME[cve]) is closed


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ("1.0", "1.0", 0), ("1.0~rc1", "1.0", -1), ("1.0+b1", "1.0", 1), ("1.9", "1.10", -1), ("1:0.1", "2.0", 1),
        ("1.0-1+deb12u1", "1.0-1+deb12u2", -1), ("1.0-1+deb12u10", "1.0-1+deb12u2", 1), ("1.0~~", "1.0~", -1),
        ("1.0a", "1.0+", -1), ("1.0-1", "1.0-1+deb12u1", -1), ("1.6.20~ds1-1", "1.6.20", -1),
    ],
)  # fmt: skip
def test_debian_versions_are_ordered_as_dpkg_orders_them(left: str, right: str, order: int) -> None:
    assert debian_order(left, right) == order
    assert debian_order(right, left) == -order


def test_components_that_are_not_there_are_open_to_nothing() -> None:
    assert open_to({}) == []
    assert {known.cve for known in open_to({"runc": "1.1.11"})} == {
        "CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881",
    }  # fmt: skip
