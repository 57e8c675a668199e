"""Which trace a request belongs to, and what its spans may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.tracing import (
    Parent,
    error_type,
    host_facts,
    is_error,
    method_of,
    names_trace,
    parse_traceparent,
    path_of,
    span_name,
    trace_of,
    traceparent_line,
    without_trace,
)

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
PARENT = Parent(int(TRACE, 16), int(SPAN, 16), True)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans(), st.booleans())
def test_what_is_written_is_what_is_read(
    trace: int, span: int, sampled: bool, random: bool
) -> None:
    name, _, value = traceparent_line(trace, span, sampled, random).partition(b": ")
    assert name == b"traceparent"
    assert parse_traceparent(value) == Parent(trace, span, sampled, random)
    assert names_trace(value)


@given(st.binary(max_size=70))
def test_no_bytes_break_the_reader(value: bytes) -> None:
    parent = parse_traceparent(value)
    assert parent is None or (parent.trace_id and parent.span_id)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE + b"-" + SPAN + b"-1",
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"-01-more",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        b"01-" + TRACE + b"-" + SPAN + b"-01.more",
        b"00-" + TRACE + b"-" + SPAN + b"-01, 00-" + TRACE + b"-" + SPAN + b"-01",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(value: bytes) -> None:
    assert parse_traceparent(value) is None
    assert not names_trace(value)


def test_a_later_version_may_say_more() -> None:
    value = b"cc-" + TRACE + b"-" + SPAN + b"-09-what-the-future-adds"
    assert parse_traceparent(value) == PARENT
    assert names_trace(value)


def test_other_flags_are_no_sampling() -> None:
    parent = parse_traceparent(b"00-" + TRACE + b"-" + SPAN + b"-02")
    assert parent is not None
    assert not parent.sampled


def test_only_an_id_of_32_digits_can_be_a_traces() -> None:
    assert trace_of(TRACE) == int(TRACE, 16)
    assert [trace_of(each) for each in (b"", b"order-7", b"z" * 32, b"0" * 32)] == [0] * 4


def test_without_a_trace_all_other_lines_stay() -> None:
    lines = [b"Accept: */*", b"TraceParent: x", b"tracestate:a=1"]
    assert without_trace(lines) == [lines[0], lines[2]]


def test_what_a_client_makes_up_names_no_span() -> None:
    assert span_name(b"POST", "/digits") == "POST /digits"
    assert span_name(b"GET", "") == "GET"
    assert span_name(b"BREW", "/digits") == "HTTP /digits"
    assert method_of(b"BREW") == "_OTHER"
    assert path_of(b"/a/b?token=secret") == "/a/b"


@pytest.mark.parametrize(
    ("host", "facts"),
    [
        ("10.0.0.1:8001", {"server.address": "10.0.0.1", "server.port": 8001}),
        ("[::1]:8001", {"server.address": "::1", "server.port": 8001}),
        ("[::1]", {"server.address": "::1"}),
        ("example.com", {"server.address": "example.com"}),
        ("example.com:", {"server.address": "example.com:"}),
        ("", {}),
    ],
)
def test_a_host_is_an_address_and_perhaps_a_port(host: str, facts: dict[str, object]) -> None:
    assert host_facts(host) == facts


@pytest.mark.parametrize(
    ("status", "reason", "failed"),
    [
        (200, "", False),
        (404, "no_route", False),
        (422, "", False),
        (499, "client_left", False),
        (200, "client_left", False),
        (101, "draining", False),
        (200, "upstream_broke", True),
        (101, "idle", True),
        (500, "", True),
        (503, "queue_full", True),
        (503, "draining", True),
    ],
)
def test_only_the_servers_own_faults_are_errors(status: int, reason: str, failed: bool) -> None:
    assert is_error(status, reason) is failed


def test_an_error_is_named_by_the_gateways_code_or_by_its_status() -> None:
    assert error_type(503, "queue_full", 500) == "queue_full"
    assert error_type(502, "", 500) == "502"
    assert error_type(404, "", 500) == ""
    assert error_type(404, "", 400) == "404"
