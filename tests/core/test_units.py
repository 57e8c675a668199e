"""Durations and sizes go in and come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.units import format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("2s", 2), ("1.5m", 90), ("1h", 3600), ("0s", 0)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-1s", "1d", "1e3s", "５s", "1s\n"])
def test_what_is_no_duration_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "MiB", "5 MiB", "-1B", "1MB", "1.5MiB", "1MiB\n"])
def test_what_is_no_size_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_size(text)


@given(st.integers(0, 1 << 45))
def test_sizes_come_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
