"""What comes in on a connection of an instance, byte by byte."""

import gzip
import random
import socket
import time
import zlib
from collections.abc import Callable

import pytest

from instance.core.errors import RequestRefused
from instance.front import zipping
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import RAW_ECHO

ECHO = """
    import time
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            if x == "slow":
                time.sleep(0.5)
            return x
"""
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
OLD = b"POST /predict HTTP/1.0\r\nConnection: keep-alive\r\n"


def asked(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def talk(instance: Instance, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back for `parts` until the other end closes."""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        got = b""
        while part := sock.recv(65536):
            got += part
    return got


def connected(instance: Instance, sent: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", instance.port), timeout=60)
    sock.sendall(sent)
    return sock


def until(sock: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        part = sock.recv(65536)
        assert part, got
        got += part
    return got


def test_requests_of_one_connection_are_answered_in_their_order(served: Serve) -> None:
    instance = served(ECHO)
    bodies = [b'"slow"', *(b"%d" % i for i in range(20))]
    sock = connected(instance, b"".join(map(asked, bodies)))
    got = until(sock, b"\r\n\r\n19")
    answers = [part.rpartition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert answers == bodies


def test_a_head_and_body_may_come_byte_by_byte(served: Serve) -> None:
    instance = served(ECHO)
    sock = connected(instance, b"")
    for byte in asked(b'{"a": 1}'):
        sock.sendall(bytes([byte]))
    assert until(sock, b'{"a":1}').startswith(b"HTTP/1.1 200")


def test_chunked_and_compressed_bodies(serve: Serve) -> None:
    instance = serve(ECHO, "Model", "--max-body", "4KiB")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n2\r\n,2\r\n1\r\n]\r\n0\r\n\r\n"
    assert until(connected(instance, HEAD + chunked), b"[1,2]").startswith(b"HTTP/1.1 200")
    headers = {"Content-Encoding": "gzip"}
    assert instance.post(content=gzip.compress(b"[3]"), headers=headers).json() == [3]
    bomb = gzip.compress(b'"%s"' % (b"x" * 1_000_000))
    assert instance.post(content=bomb, headers=headers).status_code == 413
    for broken in (b"[3]", gzip.compress(b"[3]")[:-1], gzip.compress(b"[3]") + b"more"):
        assert instance.post(content=broken, headers=headers).status_code == 400
    for plain in ("identity", "", "identity, Identity"):
        headers = {"Content-Encoding": plain}
        assert instance.post(content=b"[3]", headers=headers).json() == [3]
    headers = {"Content-Encoding": "identity, GZIP"}
    assert instance.post(content=gzip.compress(b"[3]"), headers=headers).json() == [3]
    refused = instance.post(content=b"[3]", headers={"Content-Encoding": "br"})
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_whitespace_behind_a_header_is_no_part_of_it(served: Serve) -> None:
    packed = gzip.compress(b"[1]")
    head = (
        HEAD + b"Content-Type: application/json \r\nContent-Encoding: gzip\t\r\n"
        b"Expect: 100-continue \r\nX-Headgate-Timeout-Ms: 20000 \t\r\nConnection: close \r\n"
    )
    answer = talk(served(ECHO), asked(packed, head))
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 200 " in answer
    assert answer.endswith(b"[1]")


def test_a_target_may_name_scheme_and_host_as_for_a_proxy(served: Serve) -> None:
    sent = asked(b"[5]").replace(b"/predict", b"http://x:80/predict?a=1")
    assert until(connected(served(ECHO), sent), b"[5]").startswith(b"HTTP/1.1 200")


def test_a_path_is_the_same_however_its_letters_are_written(serve: Serve) -> None:
    instance = serve(ECHO, environment={"LIT_SERVER_API_KEY": "k"})
    for path in (b"/%70redict", b"/predic%74?a=%", b"/%70%72%65%64%69%63%74"):
        sent = asked(b"[5]", HEAD.replace(b"/predict", path))
        assert until(connected(instance, sent), b"}").startswith(b"HTTP/1.1 401")
        keyed = sent.replace(b"Host", b"X-API-Key: k\r\nHost")
        assert until(connected(instance, keyed), b"[5]").startswith(b"HTTP/1.1 200")
    got = talk(instance, b"GET /%68ealth/live HTTP/1.0\r\n\r\n")  # open to anybody
    assert got.startswith(b"HTTP/1.1 200")
    keyed = b"POST /%70redict/?%70=1 HTTP/1.0\r\nX-API-Key: k\r\n\r\n"
    assert b"\r\nLocation: /predict?%70=1\r\n" in talk(instance, keyed)
    assert talk(instance, keyed.replace(b"/?%70=1", b"%00")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\n\r\n1", 400),
        (HEAD + b"Host: y\r\nContent-Length: 1\r\n\r\n1", 400),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n11", 400),
        (OLD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Expect: miracles\r\nContent-Length: 1\r\n\r\n1", 417),
        (HEAD + b"Content-Length: 999999999999999999999999\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
        (HEAD + b"".join(b"X%d: y\r\n" % i for i in range(200)) + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000, 431),
        (HEAD + b"A: " + b"x" * 100_000, 431),
        (HEAD + b"A: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n", 431),
        (HEAD.replace(b"predict", b"x" * 100_000) + b"Content-Length: 0\r\n\r\n", 431),
    ],
)
def test_what_is_malformed_or_too_large_is_refused_once_and_closed(
    served: Serve, sent: bytes, status: int
) -> None:
    got = talk(served(ECHO), sent)
    assert got.count(b"HTTP/1.1") == 1
    assert got.startswith(b"HTTP/1.1 %d" % status)
    assert b"Connection: close" in got


def test_what_comes_before_a_head_is_no_part_of_it(served: Serve) -> None:
    size = 80_000  # with the body and half of the next head in one read or two
    text = b'"%s"' % (b"x" * size)
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size + 2, text)
    sock = connected(served(ECHO), chunked + HEAD + b"Content-Le")
    until(sock, text)
    sock.sendall(b"ngth: 1\r\n\r\n1")
    assert until(sock, b"\r\n\r\n1").startswith(b"HTTP/1.1 200")


def test_what_comes_behind_a_body_is_no_header_and_has_an_end(serve: Serve) -> None:
    instance = serve(ECHO, environment={"LIT_SERVER_API_KEY": "k"})
    chunked = b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n"
    keyed = HEAD + b"X-API-Key: k\r\n" + chunked
    trailers = b"X-API-Key: other\r\nContent-Encoding: br\r\n\r\n"
    assert until(connected(instance, keyed + trailers), b"1").startswith(b"HTTP/1.1 200")
    endless = talk(instance, keyed, *[b"X: " + b"y" * 50_000 + b"\r\n"] * 10, pause=0.02)
    assert endless.startswith(b"HTTP/1.1 431")
    extended = keyed.removesuffix(b"0\r\n") + b"1;"
    endless = talk(instance, extended, *[b"y" * 50_000] * 10, pause=0.02)
    assert endless.startswith(b"HTTP/1.1 431")


def test_a_refused_request_does_not_overtake_one_that_is_computed(served: Serve) -> None:
    got = until(connected(served(ECHO), asked(b'"slow"') + b"nonsense\r\n\r\n"), b'"slow"')
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1") == 1


def test_r9_continue_is_said_only_to_what_is_accepted(serve: Serve) -> None:
    instance = serve(ECHO, "Model", "--max-body", "10B")
    sock = connected(instance, HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"7")
    assert until(sock, b"\r\n\r\n7").startswith(b"HTTP/1.1 200")
    refused = talk(instance, HEAD + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 413")


def test_head_http_1_0_and_upgrades(served: Serve) -> None:
    instance = served(ECHO)
    close = b"Host: x\r\nConnection: close\r\n\r\n"
    head = talk(instance, b"HEAD /health HTTP/1.1\r\n" + close)
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 2\r\n" in head
    old = b"POST /predict HTTP/1.0\r\nContent-Length: 1\r\n\r\n1"
    assert b"Connection: close" in talk(instance, old)
    kept = connected(instance, old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n") * 2)
    assert until(kept, b"\r\n\r\n1").count(b"Connection: keep-alive") >= 1
    upgrade = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    got = talk(instance, upgrade + b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in got, "nothing behind it is read"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("behind", [b"\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 5000])
def test_who_sends_on_behind_its_last_request_reads_the_whole_answer(
    served: Serve, version: bytes, behind: bytes
) -> None:
    body = b'"' + b"a" * 300_000 + b'"'
    last = asked(body, HEAD + b"Connection: close\r\n").replace(b"HTTP/1.1", b"HTTP/" + version)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", served(ECHO).port))
        sock.sendall(last)
        got = sock.recv(1024)  # it was answered
        sock.sendall(behind)
        while part := sock.recv(65536):
            got += part
    assert got.endswith(body)
    assert got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\n[1]", b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n"],
)
def test_a_body_is_read_though_its_client_asks_for_another_protocol(
    served: Serve, body: bytes, cut: int
) -> None:
    """As the HTTP client of Java does, and curl with --http2, for every first request."""
    instance = served(ECHO)
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    sent = HEAD + upgrade + body + asked(b"2", HEAD + b"Connection: close\r\n")
    with connected(instance, b"") as sock:
        for at in range(0, len(sent), cut):
            sock.sendall(sent[at : at + cut])
        got = b""
        while part := sock.recv(65536):
            got += part
    assert got.count(b"HTTP/1.1 200") == 2
    assert got.index(b"\r\n\r\n[1]") < got.index(b"\r\n\r\n2")


def test_a_client_of_http_1_0_is_not_told_to_continue(served: Serve) -> None:
    old = HEAD.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n1"
    assert talk(served(ECHO), old).startswith(b"HTTP/1.1 200")


def test_r15_a_pipeline_without_end_is_cut_and_what_was_taken_is_answered(served: Serve) -> None:
    instance = served(ECHO)
    got = talk(instance, asked(b'"slow"') + asked(b"1") * 1_000)
    answers = got.count(b"HTTP/1.1 200")
    assert 1 <= answers <= 40
    assert instance.post(2).json() == 2


def test_r15_what_is_sent_on_after_a_pipeline_was_cut_does_not_reset_the_connection(
    served: Serve,
) -> None:
    """A reset could take answers with it that the client has not read yet."""
    with connected(served(ECHO), asked(b"1") * 100) as sock:
        got = b""
        while part := sock.recv(65536):
            got += part
        answers = got.split(b"HTTP/1.1 200")[1:]
        assert 1 <= len(answers) <= 40
        ends = [b"\r\nconnection: close\r\n" in answer.lower() for answer in answers]
        assert ends == [False] * (len(answers) - 1) + [True], "the last one says that it is"
        for _ in range(2):  # after a reset the second fails
            sock.sendall(asked(b"1") * 100)


def test_answers_wait_for_a_client_that_does_not_read(serve: Serve) -> None:
    instance = serve("""
        class Model:
            def setup(self, device): ...
            def predict(self, x):
                return b"x" * 5_000_000
    """)
    sock = socket.create_connection(("127.0.0.1", instance.port))
    sock.sendall(asked(b"1") * 20)
    eventually(lambda: instance.metric("instance_predict_seconds_count") >= 1)
    time.sleep(0.5)
    assert instance.metric("instance_predict_seconds_count") < 20
    sock.close()
    eventually(lambda: instance.metric("instance_running") == 0)


def test_large_bodies_go_both_ways_unchanged(serve: Serve) -> None:
    instance = serve(RAW_ECHO)
    body = bytes(range(256)) * 40_000
    assert instance.post(content=body).content == body


@pytest.mark.parametrize("size", [0, 10, 100_000, 600_000])
def test_a_gzip_body_may_have_several_members(size: int) -> None:
    plain = random.Random(2).randbytes(size)
    packed = gzip.compress(plain) + gzip.compress(b"") + gzip.compress(b"more")
    assert b"".join(zipping.inflated(packed, "gzip", size + 4)) == plain + b"more"
    with pytest.raises(RequestRefused, match="body_too_large"):
        zipping.inflated(packed, "gzip", size + 3)
    with pytest.raises(RequestRefused, match="bad_request"):
        zipping.inflated(packed[:-1], "gzip", size + 4)


def test_a_body_may_be_packed_several_times() -> None:
    packed = zlib.compress(gzip.compress(gzip.compress(b"more" * 10)))
    assert b"".join(zipping.inflated(packed, "gzip, identity, X-Gzip,deflate", 99)) == b"more" * 10
    for said, code in (
        ("deflate", None),
        ("br, gzip", "unsupported_media_type"),
        ("gzip, gzip, gzip, gzip, gzip", "unsupported_media_type"),
        ("gzip, gzip, gzip, deflate", "bad_request"),
    ):
        if code is None:
            assert zipping.inflated(packed, said, 99) != [b"more" * 10]
            continue
        with pytest.raises(RequestRefused, match=code):
            zipping.inflated(packed, said, 99)
    bomb = gzip.compress(gzip.compress(bytes(1_000_000)))
    with pytest.raises(RequestRefused, match="body_too_large"):
        zipping.inflated(bomb, "gzip, gzip", 100_000)


def test_members_of_a_gzip_body_have_an_end() -> None:
    with pytest.raises(RequestRefused, match="bad_request"):
        zipping.inflated(gzip.compress(b"") * (zipping.MAX_MEMBERS + 1), "gzip", 10)


@pytest.mark.parametrize("plain", [b"x" * 3_000_000, random.Random(1).randbytes(1_500_000), b""])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_came_compressed_is_unpacked_in_pieces(
    plain: bytes, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(plain)
    pieces = zipping.inflated(packed, "gzip", len(plain))
    assert b"".join(pieces) == plain
    assert max(map(len, pieces)) <= zipping.PIECE
    for broken in (packed[:-1], packed + b"more", packed + bytes(zipping.PIECE)):
        with pytest.raises(RequestRefused, match="bad_request"):
            zipping.inflated(broken, "gzip", len(plain))
    if plain:
        with pytest.raises(RequestRefused, match="body_too_large"):
            zipping.inflated(packed, "gzip", len(plain) - 1)
