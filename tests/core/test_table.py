"""A table is made of a document, whole or not at all."""

from typing import Any

import pytest

from gateway.core.table import Table, TableError, parse_instance

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
