"""How two documents differ, and what comes of a file that meets edited state."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.edits import merge_patch
from gateway.core.merging import ABSENT, Change, diff, merge, same

SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "y"])
KEYS = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=3)


def document(**weights: int) -> dict[str, Any]:
    return {
        "backends": {"b": {"instances": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}},
        "routes": {"r": {"match": {"path": "/r"}, "split": weights}},
    }


def changed(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    patched: dict[str, Any] = merge_patch(document, patch)
    return patched


def test_a_difference_names_the_deepest_values() -> None:
    before, after = {"r": {"split": {"a": 1, "b": 2}}}, {"r": {"split": {"a": 1, "c": 2}}}
    assert diff(before, after) == (
        Change("/r/split/b", 2, ABSENT),
        Change("/r/split/c", ABSENT, 2),
    )
    assert [change.op for change in diff(before, after)] == ["remove", "add"]
    assert list(map(str, diff(before, after))) == ["/r/split/b: 2 → –", "/r/split/c: – → 2"]


def test_true_is_not_one_and_the_order_of_keys_is_no_difference() -> None:
    assert not same({"a": True}, {"a": 1})
    assert not same([1], [1.0])
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})


@given(JSON, JSON)
def test_there_is_a_difference_exactly_when_two_are_not_the_same(one: Any, other: Any) -> None:
    assert (diff(one, other) == ()) == same(one, other)


@given(OBJECTS, OBJECTS)
def test_a_difference_leads_from_one_to_the_other(before: Any, after: Any) -> None:
    result = before
    for change in diff(before, after):
        result = _with(result, change.pointer.split("/")[1:], change.after)
    assert same(result, after)


def _with(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    inner = _with(value.get(path[0], {}), path[1:], new)
    rest = {key: each for key, each in value.items() if key != path[0]}
    return rest if inner is ABSENT else {**rest, path[0]: inner}


def test_what_the_file_left_alone_stays_as_the_admin_api_made_it() -> None:
    file, live = document(a=90, b=10), document(a=50, b=50)
    merged = merge(file, file, live)
    assert merged.document == live
    assert merged.overridden == ()


def test_what_the_file_changed_wins_and_the_lost_edit_is_named() -> None:
    base, live = document(a=90, b=10), document(a=50, b=50)
    merged = merge(base, document(a=80, b=10), live)
    assert merged.document == document(a=80, b=50)
    assert merged.overridden == (Change("/routes/r/split/a", 50, 80),)


@pytest.mark.parametrize(
    ("base", "file", "live"),
    [
        # A rollout moved everything to b, and the file takes b away.
        ({"a": 50, "b": 50}, {"a": 50}, {"a": 0, "b": 100}),
        ({"a": 0, "b": 9}, {"a": 0, "b": 0, "c": 1}, {"a": 7, "b": 0, "c": 0}),
    ],
)
def test_no_two_splits_become_one_of_zeros(base: Any, file: Any, live: Any) -> None:
    merged = merge(document(**base), document(**file), document(**live))
    split = merged.document["routes"]["r"]["split"]
    assert any(split.values())
    lost = {change.pointer.rpartition("/")[2] for change in merged.overridden}
    assert {name for name in live if live[name] and split.get(name) != live[name]} <= lost


def test_a_route_that_was_shut_by_hand_stays_shut() -> None:
    base, shut = document(a=1), document(a=0)
    assert merge(base, document(a=1, b=0), shut).document == document(a=0, b=0)


def test_a_file_that_comes_to_the_same_overrides_nothing() -> None:
    merged = merge(document(a=1), document(a=2), document(a=2))
    assert merged.document == document(a=2)
    assert merged.overridden == ()


def test_what_only_the_admin_api_added_stays_and_what_the_file_took_out_goes() -> None:
    base = document(a=1)
    live = changed(base, {"routes": {"live": {"match": {"path": "/live"}, "split": {"b": 1}}}})
    file = changed(base, {"routes": {"r": None, "new": {"match": {"path": "/n"}}}})
    merged = merge(base, file, live)
    assert set(merged.document["routes"]) == {"live", "new"}
    assert merged.overridden == ()


def test_a_deletion_by_the_file_of_something_edited_is_named() -> None:
    base = document(a=1)
    merged = merge(base, changed(base, {"routes": {"r": None}}), document(a=7))
    assert merged.document["routes"] == {}
    assert [(c.pointer, c.op) for c in merged.overridden] == [("/routes/r", "remove")]


def test_where_instances_were_placed_is_no_edit_that_a_file_overrides() -> None:
    base = document(b=1)
    base["backends"]["b"] = {"serve": {"model": "m:M"}}
    live = changed(base, {"backends": {"b": {"placed": ["http://127.0.0.1:1"]}}})
    file = {"backends": {}, "routes": {}}
    assert merge(base, file, live).overridden == ()
    live = changed(live, {"backends": {"b": {"max_in_flight": 3}}})
    (change,) = merge(base, file, live).overridden
    assert change.before == {"serve": {"model": "m:M"}, "max_in_flight": 3}


def test_instances_are_merged_as_a_set() -> None:
    def backend(*ports: int) -> dict[str, Any]:
        return {"backends": {"b": {"instances": [f"http://127.0.0.1:{port}" for port in ports]}}}

    merged = merge(backend(1, 2, 3), backend(1, 2, 4), backend(2, 3, 9))
    # 1 was removed live and stays out; 3 was removed by the file; 4 and 9 were added.
    assert merged.document == backend(2, 4, 9)


def test_a_match_is_taken_whole_from_one_side() -> None:
    def route(**match: Any) -> dict[str, Any]:
        return {"routes": {"r": {"match": match}}}

    merged = merge(route(path="/a"), route(path="/b"), route(exact="/a"))
    assert merged.document == route(path="/b")
    assert [change.pointer for change in merged.overridden] == ["/routes/r/match"]


@given(OBJECTS, OBJECTS)
def test_without_live_edits_the_outcome_is_the_file(base: Any, file: Any) -> None:
    merged = merge(base, file, base)
    assert same(merged.document, file)
    assert merged.overridden == ()


@given(OBJECTS, OBJECTS)
def test_a_file_that_did_not_change_changes_nothing(base: Any, live: Any) -> None:
    merged = merge(base, base, live)
    assert same(merged.document, live)
    assert merged.overridden == ()


@given(OBJECTS, OBJECTS, OBJECTS)
def test_applying_a_file_twice_is_applying_it_once(base: Any, file: Any, live: Any) -> None:
    once = merge(base, file, live)
    again = merge(file, file, once.document)
    assert same(again.document, once.document)


@given(OBJECTS, OBJECTS, OBJECTS)
def test_everything_that_the_file_changed_is_as_the_file_says(
    base: Any, file: Any, live: Any
) -> None:
    merged = merge(base, file, live).document
    for change in diff(base, file):
        path = change.pointer.split("/")[1:]
        if not isinstance(change.after, dict):
            assert same(_at(merged, path), change.after)


def _at(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
    return value
