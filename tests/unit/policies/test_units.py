from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.units import (
    MAX_BYTES,
    UnitError,
    format_bytes,
    format_cpus,
    format_duration,
    parse_bytes,
    parse_cpus,
    parse_duration,
)


@given(st.integers(min_value=0, max_value=MAX_BYTES))
def test_a_size_survives_being_written_and_read(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == count
    assert parse_bytes(count) == count


@given(st.integers(min_value=0, max_value=10**10))
def test_a_time_survives_being_written_and_read(millis: int) -> None:
    seconds = millis / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.floats(min_value=0.05, max_value=1024))
def test_a_number_of_cpus_survives_being_written_and_read(cpus: float) -> None:
    assert parse_cpus(float(format_cpus(cpus))) == cpus


@pytest.mark.parametrize(
    ("value", "count"),
    [("512MiB", 512 * 2**20), ("2GiB", 2**31), ("64KiB", 65536), (0, 0), ("1024", 1024), ("1TiB", 2**40)],
)
def test_sizes_are_binary_and_exact(value: object, count: int) -> None:
    assert parse_bytes(value) == count


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("512M", "write '512MiB'"),
        ("512MB", "write '512MiB'"),
        ("2g", "write '2GiB'"),
        ("64kb", "write '64KiB'"),
        ("1.5GiB", "write '1536MiB'"),
        ("512 MiB", "write '512MiB'"),
        ("lots", "write '512MiB', '2GiB' or a whole number of bytes"),
        (1.5, "write '512MiB', '2GiB' or a whole number of bytes"),
        (True, "write '512MiB', '2GiB' or a whole number of bytes"),
        (-1, "write a size from 0 to 8191TiB"),
        pytest.param(10**5000, "write a size from 0 to 8191TiB", id="thousands-of-digits"),
        ("99999999999GiB", "write a size from 0 to 8191TiB"),
        ("512MiB\n", "write '512MiB', '2GiB' or a whole number of bytes"),
        ("٣MiB", "write '512MiB', '2GiB' or a whole number of bytes"),
    ],
)
def test_a_size_with_a_doubtful_unit_is_refused_with_what_to_write(value: object, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_bytes(value)
    assert caught.value.hint == hint


@pytest.mark.parametrize(("value", "seconds"), [("250ms", 0.25), ("30s", 30), ("2m", 120), ("1h", 3600)])
def test_times_are_seconds(value: str, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (30, "write '30s' if you mean seconds"),
        ("1.5h", "write '90m'"),
        ("2min", "write '250ms', '30s', '2m' or '1h'"),
        ("-1s", "write '250ms', '30s', '2m' or '1h'"),
        ("3 s", "write '3s'"),
        ("9999999h", "write a shorter time"),
        (True, "write '250ms', '30s', '2m' or '1h'"),
        (None, "write '250ms', '30s', '2m' or '1h'"),
    ],
)
def test_a_time_without_a_clear_unit_is_refused_with_what_to_write(value: object, hint: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(value)
    assert caught.value.hint == hint


@pytest.mark.parametrize("value", [0, 0.01, -1, math.nan, math.inf, 2000, "2", True, None])
def test_cpus_that_no_machine_could_give_are_refused(value: object) -> None:
    with pytest.raises(UnitError):
        parse_cpus(value)


def test_the_thousandths_of_other_tools_are_translated() -> None:
    with pytest.raises(UnitError, match=r"'500m' is not a number of CPUs; write 0\.5"):
        parse_cpus("500m")


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
def test_nothing_but_a_unit_error_comes_out_of_a_bad_value(value: object) -> None:
    for parse in (parse_bytes, parse_duration, parse_cpus):
        try:
            result = parse(value)
        except UnitError as error:
            result = -1
            said = str(error)
        else:
            said = "; "
        assert result >= 0 or "; " in said
        assert "\n" not in said
