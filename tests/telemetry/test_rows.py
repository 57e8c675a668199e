"""Rows are a dict of words by key, in less memory."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.buckets import BOUNDS
from gateway.telemetry.metrics import FIRST, KIND, LAST, OWN
from gateway.telemetry.rows import Rows

KEYS = st.integers(-6, FIRST + len(BOUNDS))


@given(st.dictionaries(KEYS, st.integers(1, (1 << 31) - 1)), st.lists(KEYS))
def test_rows_are_a_dict(words: dict[int, int], asked: list[int]) -> None:
    rows = Rows()
    for key, at in words.items():
        rows[key] = at
    assert dict(rows.items()) == words
    assert [rows.get(key) for key in asked] == [words.get(key, 0) for key in asked]
    assert [rows.get(key, -1) for key in asked] == [words.get(key, -1) for key in asked]
    others = Rows()
    others.update(rows.items())
    assert dict(others.items()) == words


def test_no_kind_of_bucket_is_another() -> None:
    assert len(BOUNDS) < KIND
    assert len({0, OWN, LAST, FIRST} & {kind * KIND for kind in range(4)}) == 4


def test_hundreds_of_buckets_take_a_seventh_of_what_a_dict_takes() -> None:
    rows, words = Rows(), dict[int, int]()
    for key in range(300, 480):
        for kind in (0, OWN, LAST):
            words[kind + key] = rows[kind + key] = 100_000 + 2 * len(words)
    made = [row for row in rows._rows if row is not None]
    kept = sys.getsizeof(rows._rows) + sum(map(sys.getsizeof, made))
    assert kept < (sys.getsizeof(words) + sum(map(sys.getsizeof, words.values()))) / 6
