"""A table is made of a document, whole or not at all."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.controlplane.configuration.reading import examine
from gateway.core.deltas import Delta, shared
from gateway.core.drafting import Draft
from gateway.core.matching import Matcher
from gateway.core.merging import diff, diff_of
from gateway.core.table import EMPTY, Table, TableError, parse_instance

DOCUMENT: dict[str, Any] = {
    "backends": {
        "linear": {"instances": ["http://127.0.0.1:8001"], "queue": {"timeout": "250ms"}},
        "cnn": {"instances": ["dns+http://cnn:8000"], "states": {"cnn:8000": "draining"}},
    },
    "routes": {
        "digits": {"match": "/digits", "split": {"linear": 90, "cnn": 10}, "max_body": "1MiB"}
    },
}


def with_route(**keys: Any) -> dict[str, Any]:
    return {**DOCUMENT, "routes": {"digits": {**DOCUMENT["routes"]["digits"], **keys}}}


def test_defaults_are_filled_in_and_units_become_numbers() -> None:
    table = Table.from_document(DOCUMENT, 7)
    assert table.revision == 7
    assert table.routes["digits"].max_body == 1 << 20
    assert table.routes["digits"].retries.attempts == 2
    assert table.backends["linear"].queue.timeout_s == 0.25
    assert table.backends["linear"].queue.size == 512
    assert table.backends["linear"].timeouts.response_s == 120


def test_an_instance_keeps_the_state_it_was_given() -> None:
    (instance,) = Table.from_document(DOCUMENT, 1).backends["cnn"].instances
    assert instance.dns
    assert instance.state == "draining"
    assert instance.address == "cnn:8000"


@pytest.mark.parametrize("weight", [-1, 1_000_001, True, 1.0, "9", None])
def test_a_weight_that_is_no_weight_names_its_place(weight: Any) -> None:
    with pytest.raises(TableError) as caught:
        Table.from_document(with_route(split={"linear": weight}), 1)
    assert caught.value.pointer == "/routes/digits/split/linear"


@pytest.mark.parametrize(
    "keys",
    [
        {"split": {}},
        {"split": {"nobody": 1}},
        {"on_unavailable": {"fallback": "nobody"}},
        {"max_body": "1 potato"},
        {"sticky": {"moon": "x"}},
    ],
)
def test_a_route_without_a_meaning_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(TableError, match="/routes/digits"):
        Table.from_document(with_route(**keys), 1)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:80", "ftp://a:1", "http://a", "http://a:0", "http://a:99999", "http://:80",
        "http://u@a:1", "http://a:1/x", "http://a:1?x", "http://a:1#x",
    ],
)  # fmt: skip
def test_an_instance_is_a_scheme_a_host_and_a_port(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_instance(url)


def test_an_ipv6_address_is_bracketed() -> None:
    assert parse_instance("http://[::1]:8001").address == "[::1]:8001"


def with_backend(**keys: Any) -> dict[str, Any]:
    return {**DOCUMENT, "backends": {**DOCUMENT["backends"], "linear": keys}}


REFUSED = [
    with_backend(balance="roundrobin"),
    with_backend(max_in_flight=-1),
    with_backend(max_in_flight=0),
    with_backend(max_in_flight=True),
    with_backend(max_in_flight="9"),
    with_backend(queue={"size": -1}),
    with_backend(queue={"size": 1.5}),
    with_backend(queue={"timeout": "0s"}),
    with_backend(queue={"timeout": "9999999h"}),
    with_backend(queue={"length": 3}),
    with_backend(health={"rise": 0}),
    with_backend(health={"path": "health"}),
    with_backend(health={"interval": 1}),
    with_backend(eject={"failures": 0}),
    with_backend(timeouts={"connect": "0ms"}),
    with_backend(states={"127.0.0.1:9": "draining"}),
    with_backend(instances=["http://a:1"], states={"a:1": "asleep"}),
    with_backend(instances=["http://a:1", "http://a:1"]),
    with_backend(instances=["http://a:1"], colour="red"),
    with_route(match="digits"),
    with_route(match="/-/health"),
    with_route(match="/a?b"),
    with_route(match={"path": "/a", "exact": "/a"}),
    with_route(match={"hosts": ["a b"]}),
    with_route(match={"hosts": "example.com"}),
    with_route(match={"methods": ["get"]}),
    with_route(match={"headers": {"a b": "c"}}),
    with_route(match={"headers": {"a": "b\nc"}}),
    with_route(match={"json": {"a": [1]}}),
    with_route(match={"json": {"a": 2**60}}),
    with_route(match={"moon": 1}),
    with_route(rewrite="no path"),
    with_route(sticky={"header": "a", "cookie": "b"}),
    with_route(sticky={"header": ""}),
    with_route(retries={"attempts": 0}),
    with_route(retries={"attempts": 11}),
    with_route(retries={"on": ["rain"]}),
    with_route(retries={"retry_safe": "yes"}),
    with_route(on_unavailable="panic"),
    with_route(on_unavailable={"fallback": "linear", "x": 1}),
    with_route(override="yes"),
    with_route(mirror={"backend": "nobody"}),
    with_route(mirror={"backend": "cnn", "percent": 101}),
    with_route(deadline="0s"),
    with_route(colour="red"),
    {**DOCUMENT, "routes": {"a/b": DOCUMENT["routes"]["digits"]}},
]


@pytest.mark.parametrize("document", REFUSED)
def test_what_the_schema_refuses_no_table_is_made_of(document: dict[str, Any]) -> None:
    assert examine(document)[2], "the schema takes it"
    with pytest.raises(TableError):
        Table.from_document(document, 1)


def test_an_edit_makes_only_what_it_changes() -> None:
    before = Table.from_document(DOCUMENT, 1)
    document = with_route(split={"linear": 1})
    delta = Delta.between(DOCUMENT, document)
    assert list(delta.touched("routes")) == ["digits"]
    assert Delta.all_applied(DOCUMENT, [delta]) == document
    after = before.edited(delta, 2, document)
    assert after.backends is before.backends
    assert after.routes["digits"].split == (("linear", 1),)
    assert after == Table.from_document(document, 2)


def test_a_backend_that_a_route_names_cannot_go() -> None:
    before = Table.from_document(DOCUMENT, 1)
    document = {**DOCUMENT, "backends": {"linear": DOCUMENT["backends"]["linear"]}}
    with pytest.raises(TableError, match="cnn"):
        before.edited(Delta.between(DOCUMENT, document), 2, document)


NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(NAMES, NAMES, st.sets(st.sampled_from("abcdef")))
def test_a_delta_leads_from_one_document_to_the_other_order_included(
    old: list[str], new: list[str], changed: set[str]
) -> None:
    specs = {name: {"instances": [], "n": name} for name in "abcdef"}
    before = {"backends": {name: specs[name] for name in old}, "routes": {}}
    entries = {name: {"n": 1} if name in changed else specs[name] for name in new}
    after = {"backends": entries, "routes": {}}
    delta = Delta.between(before, after)
    assert diff_of(delta, before, after) == diff(before, after)
    outcome = Delta.all_applied(before, [delta])
    assert outcome == after
    assert list(outcome["backends"]) == list(after["backends"])
    again = Delta.between(before, shared(before, copy.deepcopy(after), lambda a, b: a == b))
    assert set(again.touched("backends")) == (set(old) ^ set(new)) | (changed & set(new))


@given(NAMES, NAMES, st.sets(st.sampled_from("abcdef")), st.booleans())
def test_a_draft_names_the_routes_that_are_others_than_before(
    old: list[str], new: list[str], edited: set[str], is_whole: bool
) -> None:
    def document(names: list[str], weight: int) -> dict[str, Any]:
        routes = {
            name: {"match": f"/{name}", "split": {"x": weight if name in edited else 1}}
            for name in names
        }
        return {"backends": {"x": {"instances": []}}, "routes": routes}

    before = document(old, 1)
    served = Table.from_document(before, 1)
    draft = Draft(served, Matcher.of(served.routes.values()), is_whole=is_whole)
    start = EMPTY.document if is_whole else before
    draft.take(Delta.between(start, document(new, 2)))
    table, _ = draft.done(2)
    names = served.routes.keys() | table.routes.keys()
    others = {name for name in names if served.routes.get(name) is not table.routes.get(name)}
    assert {name for name in draft.changed if name in names} == others


def test_a_part_of_which_nothing_is_said_has_its_defaults() -> None:
    parts = ("queue", "health", "eject", "timeouts")
    document = {"backends": {"a": {"instances": []} | {part: {} for part in parts}}, "routes": {}}
    said = Table.from_document(document, 1).backends["a"]
    usual = Table.from_document({"backends": {"a": {"instances": []}}, "routes": {}}, 1)
    assert said == usual.backends["a"]
