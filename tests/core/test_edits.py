"""What comes out of an edit, and what is left alone."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import edits
from gateway.core.faults import Conflict, Invalid, Missing, did_you_mean, pointer

DOCUMENT: dict[str, Any] = {
    "backends": {
        "a": {"instances": ["http://127.0.0.1:1", "dns+http://models:2"]},
        "b": {"instances": ["http://[::1]:3"]},
        "c": {},
    },
    "routes": {
        "r": {"match": {"path": "/r"}, "split": {"a": 90, "b": 10}},
        "s": {
            "match": {"path": "/s"},
            "split": {"a": 1},
            "on_unavailable": {"fallback": "b"},
            "mirror": {"backend": "c"},
        },
    },
}


def faults(edit: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        edit()
    return {fault.pointer: fault.code for fault in refused.value.faults}


def test_whole_weights_replace_the_split_and_keep_its_order() -> None:
    edited = edits.set_weights(DOCUMENT, "r", {"b": 50, "a": 50}, partial=False)
    assert list(edited["routes"]["r"]["split"].items()) == [("a", 50), ("b", 50)]


def test_partial_weights_leave_the_others() -> None:
    edited = edits.set_weights(DOCUMENT, "r", {"b": 0}, partial=True)
    assert edits.weights_of(edited, "r") == {"a": 90, "b": 0}


def test_a_further_backend_of_the_table_may_join_and_null_takes_one_out() -> None:
    edited = edits.set_weights(DOCUMENT, "r", {"c": 5, "a": None}, partial=True)
    assert edits.weights_of(edited, "r") == {"b": 10, "c": 5}


def test_r50_every_fault_of_the_weights_is_named_at_once() -> None:
    wrong = {"a": -1, "nobody": 1}
    assert faults(lambda: edits.set_weights(DOCUMENT, "r", wrong, partial=False)) == {
        "/a": "weight",
        "/nobody": "unknown_backend",
        "/b": "missing",
    }


@pytest.mark.parametrize("weight", [-1, 1_000_001, 1e308, -0.0, 1.0, True, "1", None, [], 10**40])
def test_r50_what_is_no_weight_is_refused(weight: Any) -> None:
    whole = {"a": weight, "b": 1}
    assert faults(lambda: edits.set_weights(DOCUMENT, "r", whole, partial=False)) == {
        "/a": "weight"
    }


def test_the_last_backend_of_a_split_cannot_be_taken_out() -> None:
    gone = {"a": None, "b": None}
    assert faults(lambda: edits.set_weights(DOCUMENT, "r", gone, partial=True)) == {"": "empty"}


def test_an_unknown_route_is_missing_and_the_likely_one_named() -> None:
    document = {**DOCUMENT, "routes": {"digits": DOCUMENT["routes"]["r"]}}
    with pytest.raises(Missing, match="did you mean digits"):
        edits.set_weights(document, "digit", {"a": 1}, partial=True)


@pytest.mark.parametrize(("backend", "users"), [("a", "'r', 's'"), ("b", "'r', 's'"), ("c", "'s'")])
def test_a_backend_in_use_cannot_be_deleted(backend: str, users: str) -> None:
    with pytest.raises(Conflict, match=users):
        edits.delete_backend(DOCUMENT, backend)


def test_a_backend_without_routes_can_be_deleted() -> None:
    free = edits.delete_route(edits.delete_route(DOCUMENT, "r"), "s")
    assert set(edits.delete_backend(free, "a")["backends"]) == {"b", "c"}


def test_instances_come_and_go_by_their_address() -> None:
    edited = edits.add_instance(DOCUMENT, "c", "http://10.0.0.1:80")
    edited = edits.remove_instance(edited, "a", "models:2")
    assert edited["backends"]["c"]["instances"] == ["http://10.0.0.1:80"]
    assert edited["backends"]["a"]["instances"] == ["http://127.0.0.1:1"]


def test_an_address_cannot_be_added_twice_however_it_is_written() -> None:
    with pytest.raises(Conflict, match=r"127\.0\.0\.1:1 already"):
        edits.add_instance(DOCUMENT, "a", "http://127.0.0.1:1/")


def test_a_state_is_set_changed_and_taken_back_without_a_trace() -> None:
    drained = edits.set_state(DOCUMENT, "b", "[::1]:3", "draining")
    assert drained["backends"]["b"]["states"] == {"[::1]:3": "draining"}
    disabled = edits.set_state(drained, "b", "[::1]:3", "disabled")
    assert disabled["backends"]["b"]["states"] == {"[::1]:3": "disabled"}
    assert edits.set_state(disabled, "b", "[::1]:3", "") == DOCUMENT


def test_a_removed_instance_leaves_no_state_behind() -> None:
    drained = edits.set_state(DOCUMENT, "b", "[::1]:3", "draining")
    assert edits.remove_instance(drained, "b", "[::1]:3")["backends"]["b"] == {"instances": []}


def test_an_unknown_instance_is_missing() -> None:
    with pytest.raises(Missing, match=r"127\.0\.0\.1:9; did you mean 127\.0\.0\.1:1"):
        edits.set_state(DOCUMENT, "a", "127.0.0.1:9", "draining")


def test_no_edit_changes_the_document_it_was_given() -> None:
    before = copy.deepcopy(DOCUMENT)
    edits.set_weights(DOCUMENT, "r", {"a": 1}, partial=True)
    edits.put(DOCUMENT, "routes", "r", {})
    edits.delete_route(DOCUMENT, "r")
    edits.set_state(DOCUMENT, "a", "127.0.0.1:1", "disabled")
    edits.add_instance(DOCUMENT, "a", "http://127.0.0.1:7")
    edits.remove_instance(DOCUMENT, "a", "127.0.0.1:1")
    edits.merge_patch(DOCUMENT, {"routes": {"r": None}})
    assert before == DOCUMENT


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_as_rfc_7396_says(target: Any, patch: Any, result: Any) -> None:
    assert edits.merge_patch(target, patch) == result


@given(st.lists(st.text(max_size=5), max_size=4))
def test_pointers_can_be_read_back(parts: list[str]) -> None:
    text = pointer(*parts)
    back = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]
    assert back == parts


def test_did_you_mean_says_nothing_about_the_far_fetched() -> None:
    assert did_you_mean("wieghts", ["weights", "workers"]) == "did you mean weights?"
    assert did_you_mean("xyz", ["weights"]) == ""
