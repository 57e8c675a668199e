"""The grammar: what is understood, what is refused, and that h11 agrees."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ClientFault, UpstreamFault
from gateway.core.framing import Chunked, Sized
from gateway.core.heads import CHUNKED, check_start, parse_request
from gateway.core.lines import Lines
from gateway.core.response_heads import ResponseHead, kept, parse_response


def request(head: bytes):
    return parse_request(head, 8192, 100, "drop")


def refused(head: bytes) -> str:
    with pytest.raises(ClientFault) as caught:
        request(head)
    return caught.value.code


BASE = b"POST /a HTTP/1.1\r\nHost: h\r\n"


def test_a_request_is_read():
    head = request(b"POST /a?b HTTP/1.1\r\nHost: h:80\r\nX-A: 1\r\nContent-Length: 05")
    assert (head.method, head.target, head.host) == (b"POST", b"/a?b", b"h:80")
    assert (head.length, head.forward, head.close) == (5, [b"X-A: 1"], False)


@pytest.mark.parametrize(
    "head",
    [
        b"GET  /a HTTP/1.1\r\nHost: h",
        b"GET /a HTTP/1.1 \r\nHost: h",
        b"get /a HTTP/1.1\r\nHost: h",
        b"GET /a HTTP/2.0\r\nHost: h",
        b"GET /a\\b HTTP/1.1\r\nHost: h",
        b"GET /a#b HTTP/1.1\r\nHost: h",
        b"GET /a\x01 HTTP/1.1\r\nHost: h",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h",
        b"GET /a HTTP/1.1",
        b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h",
        BASE + b"Content-Length: 1\r\nContent-Length: 1",
        BASE + b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        BASE + b"Content-Length: +1",
        BASE + b"Content-Length: 1,1",
        BASE + b"Content-Length: 0x1",
        BASE + b"Content-Length:",
        BASE + b"Transfer-Encoding: xchunked",
        BASE + b"Transfer-Encoding: gzip, chunked",
        BASE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        BASE + b" folded: 1",
        BASE + b"X-A : 1",
        BASE + b": 1",
        BASE + b"X-A",
        BASE + b"X-A: 1\x00",
        BASE + b"X-A: 1\nX-B: 2",
        BASE + b"X-A: 1\rX-B: 2",
        b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused(head):
    assert refused(head) == "bad_request"


def test_limits_have_their_own_codes():
    assert refused(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h") == "uri_too_long"
    assert refused(BASE[:-2] + b"\r\nX: 1" * 100) == "head_too_large"
    assert refused(BASE + b"Expect: 200-ok") == "expectation_failed"


def test_nominated_headers_go_and_ours_stay():
    head = request(BASE + b"Connection: X-A, Host, close\r\nX-A: 1\r\nX-B: 2")
    assert (head.forward, head.host, head.close) == ([b"X-B: 2"], b"h", True)


def test_absolute_form_routes_by_its_authority():
    head = request(b"GET http://other:1?q HTTP/1.1\r\nHost: h")
    assert (head.host, head.target) == (b"other:1", b"/?q")


@pytest.mark.parametrize(
    ("mode", "forwarded"), [("drop", []), ("pass", [b"X_A: 1"]), ("refuse", None)]
)
def test_underscores_follow_the_setting(mode, forwarded):
    if forwarded is None:
        with pytest.raises(ClientFault):
            parse_request(BASE + b"X_A: 1", 8192, 100, mode)
    else:
        assert parse_request(BASE + b"X_A: 1", 8192, 100, mode).forward == forwarded


def test_a_start_that_cannot_become_a_head_is_refused_at_once():
    check_start(b"GET / HT", 8192, 100, "drop")
    check_start(BASE + b"X-A: 1\r", 8192, 100, "drop")
    for start in (b"\x16\x03\x01", b"GET /\n", BASE + b"X: \r1", BASE + b" x", BASE + b"A\r\n"):
        with pytest.raises(ClientFault):
            check_start(start, 8192, 100, "drop")


def test_what_is_kept_of_header_lines_is_bounded_and_no_secret():
    lines = Lines({})
    for number in range(10_000):
        lines.read(b"x-%d: y" % number)
    assert len(lines.kept.keys()) <= 2048
    assert len(lines.names.keys()) <= 2048
    lines = Lines({})
    lines.read(b"Authorization: secret")
    assert not len(lines.kept.keys())


def test_a_flood_of_lines_takes_nothing_from_those_that_come_again() -> None:
    lines = Lines({})
    often = b"Accept: */*"
    entry = lines.read(often)
    for number in range(10_000):
        lines.read(b"User-Agent: %d" % number)
        if number % 500 == 0:
            assert (lines.kept.young.get(often) or lines.read(often)) is entry
    assert lines.kept.find(b"User-Agent: 1") is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 200 OK\r\n X: 1",
        b"HTTP/1.1 200 OK\r\nX\x00: 1",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_malformed_answer_is_the_instances_fault(head):
    with pytest.raises(UpstreamFault):
        parse_response(head, 100)


def test_internal_headers_never_pass_either_way():
    assert request(BASE + b"X-Headgate-Error: x\r\nX-Headgate-Timeout-Ms: 1").forward == []
    answer = parse_response(b"HTTP/1.1 200 OK\r\nX-Headgate-Error: x\r\nX-Request-Id: y", 100)
    assert answer.forward == []


def trickle(body, wire: bytes) -> None:
    for number in range(len(wire)):
        body.feed(wire[number : number + 1])


# bodies


def test_a_sized_body_ends_where_it_says():
    body = Sized(5)
    assert (body.feed(b"abc"), body.done) == (b"abc", False)
    assert (body.feed(b"defgh"), body.done, body.rest) == (b"de", True, b"fgh")


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(1, 40)))
def test_chunks_come_out_however_they_were_cut(chunks, cuts):
    wire = b"".join(b"%x;a=b\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\nX: 1\r\n\r\nNEXT"
    body, out, at = Chunked(), b"", 0
    for cut in [*cuts, len(wire)]:
        if body.done:
            break
        out += body.feed(wire[at : at + cut])
        at += cut
    assert out == b"".join(chunks)
    assert body.done
    assert body.rest + wire[at:] == b"NEXT"


def test_a_size_of_a_chunk_may_be_written_with_zeros_before_it():
    """As by `%016x`; so many that they are a burden are none of a size any more."""
    wire = b"%016x\r\nabc\r\n" % 3
    assert Chunked().feed(wire * 2000) == b"abc" * 2000
    with pytest.raises(ValueError, match="too long"):
        Chunked().feed(b"%0500x\r\nabc\r\n" % 3 * 2000)


@pytest.mark.parametrize(
    "wire",
    [
        b"3\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3 \r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"3;\nx\r\nabc\r\n",
        b"\r\n",
        b"g\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n bad\r\n\r\n",
        b"1" * 16 + b"\r\n",
        b"0" * 9 + b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 2000,
    ],
)
def test_whatever_is_not_exactly_chunks_is_refused(wire):
    with pytest.raises(ValueError):
        Chunked().feed(wire)
    with pytest.raises(ValueError):
        trickle(Chunked(), wire)


def test_extensions_and_trailers_are_bounded():
    with pytest.raises(ValueError, match="too long"):
        Chunked().feed((b"1;" + b"x" * 500 + b"\r\na\r\n") * 1000)
    with pytest.raises(ValueError, match="too long"):
        Chunked().feed(b"0\r\n" + b"X: 1\r\n" * 100_000)


NAMES = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"X-A", b"x a", b"", b"T:"]
)
VALUES = st.sampled_from(
    [b"h", b"5", b"5, 5", b"chunked", b" x ", b"\tx", b"a\rb", b"\x0b", b"\xff"]
)
ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b" :"]), VALUES, ENDS), max_size=5))
def test_what_is_accepted_h11_accepts_with_the_same_meaning(lines):
    head = b"POST /a HTTP/1.1\r\nHost: h\r\n" + b"".join(b"".join(line) for line in lines)
    if not head.endswith(b"\r\n") or b"\r\n\r\n" in head:
        return
    try:
        ours = request(head[:-2])
    except ClientFault:
        return
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(head + b"\r\n")
    theirs = judge.next_event()
    assert isinstance(theirs, h11.Request)
    fields = dict(theirs.headers)
    length = CHUNKED if b"transfer-encoding" in fields else fields.get(b"content-length")
    assert ours.length == (int(length) if length is not None else None)


def test_r65_nothing_that_may_be_a_secret_outlives_its_connection() -> None:
    secret = b"s3cr3t-of-one-client"
    lines = (
        b"Authorization: Bearer ", b"Cookie: a=", b"X-Api-Key: ", b"Ocp-Apim-Subscription-Key: ",
        b"X-Tenant: ", b"Referer: https://h/?key=", b"X-Request-Id: ",
    )  # fmt: skip
    head = b"GET /x/" + secret + b"?key=" + secret + b" HTTP/1.1\r\nHost: h"
    request(head + b"".join(b"\r\n" + line + secret for line in lines))
    parse_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + secret, 100)
    assert not [each for part in kept() for each in part if secret in each]


def test_what_is_kept_of_lines_and_names_is_bounded() -> None:
    for number in range(5000):
        request(b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: 1" % (number, number))
        parse_response(b"HTTP/1.1 200 Fine %d\r\nServer: s%d" % (number, number), 100)
    *lines, statuses = kept()
    assert max(map(len, lines)) <= 2048
    assert len(statuses) <= 256


REPORTED = b"HTTP/1.1 200 OK\r\nServer: s\r\nEndpoint-Load-Metrics: JSON {1}\r\nContent-Length: 2"


FACTS = (
    "after", "before", "close", "forward", "known", "length", "minor", "nominated", "passing",
    "raw", "status", "status_line",
)  # fmt: skip


def facts(head: ResponseHead) -> list[object]:
    """All that is said of an answer's head but how its lines were written."""
    return [(name, getattr(head, name)) for name in FACTS]


@given(st.binary(max_size=12))
def test_an_answer_that_differs_in_its_load_report_alone_means_what_it_says(report: bytes) -> None:
    first = parse_response(REPORTED, 100)
    data = REPORTED.replace(b"JSON {1}", report)
    again = first.again(data + b"\r\n\r\nok", 1000)
    try:
        read = parse_response(data, 100)
    except UpstreamFault:
        assert again is None
    else:
        if b"\r\n" in report:
            assert again is None
        else:
            assert again is not None
            assert facts(again) == facts(read)
            assert facts(first) == facts(parse_response(REPORTED, 100))


@pytest.mark.parametrize(
    "head",
    [
        REPORTED + b"\r\nEndpoint-Load-Metrics: JSON {1}",
        REPORTED.replace(b"Endpoint-Load-Metrics", b"Other"),
        REPORTED + b"\r\nX-Long: " + b"x" * 1024,
    ],
)
def test_an_answer_without_one_short_load_report_is_read_anew(head: bytes) -> None:
    first = parse_response(head, 100)
    assert first.again(head + b"\r\n\r\n", 10_000) is None


def test_what_only_looks_like_a_load_report_is_none() -> None:
    head = REPORTED.replace(b"Server: s", b"Server: Endpoint-Load-Metrics: JSON {1}")
    first = parse_response(head, 100)
    other = head.replace(b"Server: Endpoint-Load-Metrics: JSON {1}", b"Server: x")
    assert first.again(other + b"\r\n\r\n", 1000) is None
    other = head.replace(b"\r\nEndpoint-Load-Metrics: JSON {1}", b"\r\nEndpoint-Load-Metrics: 2")
    again = first.again(other + b"\r\n\r\n", 1000)
    assert again is not None
    assert facts(again) == facts(parse_response(other, 100))
    assert first.again(other[:-3], 1000) is None
    assert first.again(other + b"\r\n\r\n", len(other) - 1) is None
