"""What rules do to header lines, and of which headers they may not speak."""

from typing import Any

import pytest

from gateway.core.header_rules import HeaderEdit, Rules, read_header_rules

FORBIDDEN = [
    "Content-Length", "transfer-encoding", "Trailer", "Connection", "Keep-Alive", "TE", "Upgrade",
    "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Expect", "Host", "Via",
    "X-Forwarded-For", "X-Request-Id", "traceparent", "X-Headgate-Consumer", "x_headgate_consumer",
]  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("rule", ["set", "add", "remove"])
def test_framing_hop_by_hop_and_our_own_headers_are_no_rules(name: str, rule: str) -> None:
    said: Any = [name] if rule == "remove" else {name: "1"}
    with pytest.raises(ValueError, match=name):
        read_header_rules({"response": {rule: said}})


@pytest.mark.parametrize(
    "spec",
    [
        {"request": {"set": {"A b": "1"}}},
        {"request": {"set": {"A": "1\r\nX: 2"}}},
        {"request": {"set": {"A": 1}}},
        {"request": {"set": {"A": "1", "a": "2"}}},
        {"request": {"set": {"A": "1"}, "remove": ["a"]}},
        {"request": {"replace": {}}},
        {"both": {}},
    ],
)
def test_what_is_no_rule_is_refused(spec: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        read_header_rules(spec)


def test_what_is_set_replaces_and_what_is_added_stands_beside() -> None:
    edit = HeaderEdit(Rules((("X-A", "1"), ("New", "2")), (("X-B", "3"),), ("Gone",)))
    lines = [b"x-a: old", b"X-A:older", b"X-B: kept", b"GONE: x", b"Other: y"]
    assert edit.apply(lines) == [
        b"X-B: kept",
        b"Other: y",
        b"X-A: 1",
        b"New: 2",
        b"X-B: 3",
    ]
    assert edit.beside([b"X-a: own"]) == [b"New: 2", b"X-B: 3"]
    assert HeaderEdit.of(Rules()) is None


def test_a_value_may_be_written_in_any_script() -> None:
    edit = HeaderEdit(Rules(add=(("X-Team", "Zürich 🏔"),)))
    assert edit.apply([]) == ["X-Team: Zürich 🏔".encode()]
