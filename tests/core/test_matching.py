"""Which route a request means, in the contract's order, on the bytes that are forwarded."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.matching import (
    NOT_FOUND,
    UNREAD,
    Found,
    Matched,
    Matcher,
    NeedsBody,
    WrongMethod,
)
from gateway.core.table import Match, Route


def route(name: str, path: str = "/", rewrite: str | None = None, **match: Any) -> Route:
    match["headers"] = tuple(match.get("headers", {}).items())
    match["json"] = tuple(match.get("json", {}).items())
    return Route(name, Match(path, **match), (("b", 1),), rewrite=rewrite)


def ask(
    matcher: Matcher,
    path: str,
    *,
    method: str = "POST",
    host: str = "",
    headers: dict[str, str] | None = None,
    body: Any = UNREAD,
) -> Matched:
    return matcher.match(method, host, path, (headers or {}).get, body)


def name_of(matched: Matched) -> str | None:
    return matched.route if isinstance(matched, Found) else None


def chooser(*routes: Route) -> Callable[..., str | None]:
    matcher = Matcher.of(routes)
    return lambda path, **request: name_of(ask(matcher, path, **request))


def test_an_exact_path_comes_before_any_prefix() -> None:
    chosen = chooser(
        route("all"), route("prefix", "/a/b"), route("exact", "/a/b", exact=True), route("a", "/a")
    )
    assert chosen("/a/b") == "exact"
    assert chosen("/a/b/") == "prefix"
    assert chosen("/a/b/c") == "prefix"
    assert chosen("/a/bc") == "a"
    assert chosen("/z") == "all"


def test_a_prefix_is_made_of_whole_segments() -> None:
    chosen = chooser(route("digits", "/digits"))
    assert chosen("/digits") == "digits"
    assert chosen("/digits/") == "digits"
    assert chosen("/digits/7") == "digits"
    assert chosen("/digits?x=1") == "digits"
    for other in ("/digitsx", "/digit", "/", "/Digits", "//digits", "/x/digits", "/digits%2f7"):
        assert chosen(other) is None


@pytest.mark.parametrize("declared", ["/a", "/a/"])
def test_a_slash_at_the_end_of_a_prefix_says_nothing(declared: str) -> None:
    chosen = chooser(route("a", declared))
    assert [chosen(path) for path in ("/a", "/a/", "/a/b", "/ab")] == ["a", "a", "a", None]


def test_r7_nothing_is_decoded_or_folded_on_the_way_to_a_route() -> None:
    matcher = Matcher.of([route("pct", "/a%20b"), route("cnn", "/v1/CNN")])
    assert name_of(ask(matcher, "/a%20b")) == "pct"
    assert ask(matcher, "/v1/cnn") == NOT_FOUND
    assert ask(matcher, "/v1//CNN") == NOT_FOUND


@given(st.text(alphabet="/ab%2e.;?", max_size=30).map(lambda rest: "/" + rest))
def test_r7_without_a_rewrite_the_routed_path_is_the_forwarded_path(target: str) -> None:
    matched = ask(Matcher.of([route("all"), route("a", "/a"), route("ab", "/a/b")]), target)
    assert isinstance(matched, Found)
    assert matched.forwarded_path == target


@pytest.mark.parametrize("target", ["*", "", "x", "http://a/b", "?x", "a/b"])
def test_only_origin_form_is_routed(target: str) -> None:
    assert ask(Matcher.of([route("all"), route("x", "/x", exact=True)]), target) == NOT_FOUND


def reference(routes: list[Route], path: str) -> str | None:
    """The contract's order for paths alone, the slow and obvious way."""
    best: tuple[bool, int, int] | None = None
    found = None
    for order, each in enumerate(routes):
        declared = each.match.path.rstrip("/")
        prefix = not each.match.exact and (path + "/").startswith(declared + "/")
        if prefix or (each.match.exact and path == each.match.path):
            rank = (each.match.exact, len(declared), -order)
            if best is None or rank > best:
                best, found = rank, each.name
    return found


PATHS = st.lists(st.sampled_from(["a", "b", "ab", "a%2fb", ""]), max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)


@given(
    st.lists(st.tuples(PATHS.filter(lambda p: "//" not in p), st.booleans()), max_size=12), PATHS
)
def test_the_index_finds_what_a_search_of_all_routes_finds(
    declared: list[tuple[str, bool]], path: str
) -> None:
    routes = [route(f"r{i}", p, exact=exact) for i, (p, exact) in enumerate(declared)]
    assert chooser(*routes)(path) == reference(routes, path)


def test_r6_the_more_specific_host_comes_first() -> None:
    chosen = chooser(
        route("any"),
        route("star", hosts=("*.example.com",)),
        route("deep", hosts=("*.eu.example.com",)),
        route("one", hosts=("api.example.com", "api.example.org.")),
    )
    assert chosen("/", host="api.example.com") == "one"
    assert chosen("/", host="api.example.org") == "one"
    assert chosen("/", host="www.example.com") == "star"
    assert chosen("/", host="a.b.example.com") == "star"
    assert chosen("/", host="a.eu.example.com") == "deep"
    assert chosen("/", host="example.com") == "any"
    assert chosen("/", host="") == "any"
    assert chosen("/", host="xexample.com") == "any"


def test_a_longer_path_beats_a_more_specific_host() -> None:
    chosen = chooser(route("host", hosts=("a.com",)), route("path", "/x"))
    assert chosen("/x", host="a.com") == "path"
    assert chosen("/y", host="a.com") == "host"


def test_more_headers_come_first_and_must_all_agree() -> None:
    chosen = chooser(
        route("none"),
        route("one", headers={"X-Tier": "gold"}),
        route("two", headers={"X-Tier": "gold", "X-Beta": "1"}),
    )
    assert chosen("/", headers={"x-tier": "gold"}) == "one"
    assert chosen("/", headers={"x-tier": "gold", "x-beta": "1"}) == "two"
    assert chosen("/", headers={"x-tier": "gold", "x-beta": "2"}) == "one"
    assert chosen("/", headers={"x-tier": "Gold"}) == "none"
    assert chosen("/") == "none"


def test_equal_routes_are_told_apart_by_their_order() -> None:
    chosen = chooser(
        route("b", headers={"X-B": "1"}), route("a", headers={"X-A": "1"}), route("c"), route("d")
    )
    assert chosen("/", headers={"x-a": "1", "x-b": "1"}) == "b"
    assert chosen("/") == "c"


def test_a_route_that_names_its_methods_comes_before_one_that_does_not() -> None:
    chosen = chooser(route("any"), route("post", methods=("POST", "PUT")))
    assert chosen("/", method="POST") == "post"
    assert chosen("/", method="PUT") == "post"
    assert chosen("/", method="GET") == "any"


def test_a_wrong_method_falls_through_to_a_shorter_path_that_takes_it() -> None:
    chosen = chooser(route("get", "/a", methods=("GET",)), route("all", methods=("POST",)))
    assert chosen("/a", method="POST") == "all"


def test_when_only_the_method_is_wrong_all_methods_are_told() -> None:
    matcher = Matcher.of(
        [
            route("a", "/a", methods=("PUT",)),
            route("b", "/", methods=("GET", "POST")),
            route("c", "/", methods=("PATCH",), headers={"X-A": "1"}),
            route("d", "/d", methods=("TRACE",)),
        ]
    )
    assert ask(matcher, "/a/x", method="DELETE") == WrongMethod(("GET", "POST", "PUT"))
    assert ask(matcher, "/z", method="get") == WrongMethod(("GET", "POST"))


def test_a_body_is_asked_for_only_when_it_can_decide() -> None:
    matcher = Matcher.of(
        [
            route("json", "/m", json={"model": "a"}, methods=("POST",)),
            route("exact", "/m/x", exact=True),
            route("head", "/m", headers={"X-A": "1"}),
            route("rest"),
        ]
    )
    assert isinstance(ask(matcher, "/m"), NeedsBody)
    assert name_of(ask(matcher, "/m", body={"model": "a"})) == "json"
    assert name_of(ask(matcher, "/m", body={"model": "b"})) == "rest"
    assert name_of(ask(matcher, "/m", body=None)) == "rest"
    assert name_of(ask(matcher, "/m/x")) == "exact"
    assert name_of(ask(matcher, "/m", headers={"x-a": "1"})) == "head"
    assert name_of(ask(matcher, "/m", method="GET")) == "rest"
    assert name_of(ask(matcher, "/other")) == "rest"


def test_the_body_is_read_up_to_the_largest_limit_that_may_apply() -> None:
    small = Route("s", Match("/", json=(("m", 1),)), (("b", 1),), max_body=10)
    large = Route("l", Match("/", json=(("m", 2),)), (("b", 1),), max_body=20)
    assert ask(Matcher.of([small, large]), "/") == NeedsBody(20, frozenset({"m"}))


def test_more_json_fields_come_first() -> None:
    chosen = chooser(route("one", json={"a": 1}), route("two", json={"a": 1, "b": "x"}))
    assert chosen("/", body={"a": 1, "b": "x", "c": 0}) == "two"
    assert chosen("/", body={"a": 1, "b": "y"}) == "one"
    assert chosen("/", body={"b": "x"}) is None


@pytest.mark.parametrize(
    ("wanted", "given_", "matches"),
    [
        (1, 1, True), (1, 1.0, True), (1, True, False), (True, True, True), (True, 1, False),
        (0, False, False), (None, None, True), (None, False, False), ("1", 1, False),
        ("", None, False), ("a", "a", True), ("a", ["a"], False), ("a", {"a": 1}, False),
        (1.5, 1.5, True), (False, 0, False),
    ],
)  # fmt: skip
def test_json_conditions_compare_types(wanted: Any, given_: Any, matches: bool) -> None:
    chosen = chooser(route("r", json={"field": wanted}))
    assert chosen("/", body={"field": given_}) == ("r" if matches else None)


def test_a_missing_field_is_not_null() -> None:
    chosen = chooser(route("r", json={"field": None}))
    assert chosen("/", body={}) is None
    assert chosen("/", body={"field": None}) == "r"


@pytest.mark.parametrize("body", [None, [], "text", 5, True, [{"field": 1}]])
def test_a_body_that_is_no_object_has_no_fields(body: Any) -> None:
    assert chooser(route("r", json={"field": 1}), route("rest"))("/", body=body) == "rest"


@pytest.mark.parametrize(
    ("declared", "rewrite", "target", "forwarded"),
    [
        ("/digits", "/predict", "/digits", "/predict"),
        ("/digits", "/predict", "/digits?a=/digits", "/predict?a=/digits"),
        ("/digits", "/predict", "/digits/", "/predict/"),
        ("/digits", "/predict", "/digits/7%2f?x=%20", "/predict/7%2f?x=%20"),
        ("/digits", "/", "/digits/7", "/7"),
        ("/digits", "/", "/digits", "/"),
        ("/digits", "/v/", "/digits/7", "/v/7"),
        ("/digits", "/v/", "/digits", "/v/"),
        ("/", "/v2", "/digits", "/v2/digits"),
        ("/", "/v2", "/", "/v2/"),
        ("/a/", "/b", "/a/c", "/b/c"),
        ("/digits", "/predict", "/digits?", "/predict?"),
    ],
)
def test_rewrite_replaces_the_matched_path_and_nothing_else(
    declared: str, rewrite: str, target: str, forwarded: str
) -> None:
    matched = ask(Matcher.of([route("r", declared, rewrite)]), target)
    assert isinstance(matched, Found)
    assert matched.forwarded_path == forwarded


def test_an_exact_match_is_rewritten_as_a_whole() -> None:
    matched = ask(Matcher.of([route("r", "/a", "/b/c", exact=True)]), "/a?x")
    assert isinstance(matched, Found)
    assert matched.forwarded_path == "/b/c?x"


@pytest.mark.parametrize(
    "routes",
    [
        [route(f"r{i}", f"/team{i}/model") for i in range(1000)],
        [route(f"r{i}", hosts=(f"h{i}.example.com",)) for i in range(1000)],
        [route(f"r{i}", headers={"X-Model": f"m{i}"}) for i in range(1000)],
        [route(f"r{i}", json={"model": f"m{i}"}) for i in range(1000)],
    ],
    ids=["paths", "hosts", "headers", "json"],
)
def test_a_thousand_routes_cost_what_ten_do(routes: list[Route]) -> None:
    best = {10: 1.0, 1000: 1.0}

    def measure(count: int) -> None:
        matcher = matchers[count]
        last = f"{count - 1}"
        request = {
            "host": f"h{last}.example.com",
            "headers": {"x-model": f"m{last}"},
            "body": {"model": f"m{last}"},
        }
        path = f"/team{last}/model/predict"
        assert name_of(ask(matcher, path, **request)) == f"r{last}"
        begin = time.thread_time()
        for _ in range(50):
            ask(matcher, path, **request)
        best[count] = min(best[count], time.thread_time() - begin)

    matchers = {count: Matcher.of(routes[:count]) for count in best}
    for _ in range(20):
        for count in best:  # by turns: whoever shares the processor meanwhile slows down both
            measure(count)
    assert best[1000] < 3 * best[10]


def test_r10_a_target_of_thousands_of_slashes_costs_little() -> None:
    matcher = Matcher.of([route("a", "/a/b/c")])
    begin = time.thread_time()
    for _ in range(100):
        ask(matcher, "/" * 8000)
        ask(matcher, "/a" * 4000)
    assert time.thread_time() - begin < 0.1


PATHS = st.sampled_from(["/", "/a", "/a/b", "/c"])
MATCHES = st.fixed_dictionaries(
    {"path": PATHS},
    optional={
        "exact": st.booleans(),
        "hosts": st.sampled_from([("x.example",), ("*.example",), ("x.example", "y.example")]),
        "methods": st.sampled_from([("GET",), ("POST", "PUT")]),
        "headers": st.sampled_from([{"X-A": "1"}, {"X-A": "2"}, {"X-A": "1", "X-B": "1"}]),
        "json": st.sampled_from([{"m": 1}, {"m": 2}, {"m": 1, "n": None}]),
    },
)
EDITS = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | MATCHES), max_size=12)


@given(EDITS, st.integers(0, 12))
def test_a_matcher_that_was_edited_is_the_one_that_would_be_made(
    changes: list[tuple[str, Any]], at: int
) -> None:
    routes: dict[str, Route] = {}
    edited, kept, made = Matcher.of(()), None, None
    for number, (name, match) in enumerate(changes):
        if number == at:
            kept, made = edited, Matcher.of(list(routes.values()))
        if match is None:
            routes.pop(name, None)
        else:
            routes[name] = route(name, **match)
        edited = edited.edited([name], routes)
    assert_alike(edited, Matcher.of(routes.values()))
    if kept is not None and made is not None:
        assert_alike(kept, made)  # what was made of it later has not touched it


def assert_alike(one: Matcher, other: Matcher) -> None:
    for path in ("/", "/a", "/a/b", "/a/b/c", "/z"):
        for host in ("", "x.example", "z.example"):
            for method in ("GET", "POST", "DELETE"):
                for headers in ({}, {"x-a": "1"}, {"x-a": "1", "x-b": "1"}):
                    for body in (UNREAD, None, {"m": 1}, {"m": 1, "n": None}):
                        asked = {"method": method, "host": host, "headers": headers, "body": body}
                        assert ask(one, path, **asked) == ask(other, path, **asked)


def test_an_edit_of_weights_leaves_the_matcher_as_it_is() -> None:
    before = route("a", "/a")
    matcher = Matcher.of([before, route("b", "/b")])
    heavier = Route("a", before.match, (("b", 7),))
    assert matcher.edited(["a"], {"a": heavier}) is matcher
