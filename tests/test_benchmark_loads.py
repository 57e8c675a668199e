"""Both loads of the benchmark, as they arrive, and what its upstreams answer."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from benchmarks.heads import USERS, Target, different
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import KINDS, parse, wrk

TARGETS = [Target(f"/t{n}", f"h{n}.example", (("X-Tenant", f"n{n}"),)) for n in range(10)]
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

Arrived = tuple[str, dict[str, str], bytes]


def read(stream: object) -> Arrived | None:
    """The next request's line, header fields and body."""
    first = stream.readline().decode().strip()  # type: ignore[attr-defined]
    if not first:
        return None
    fields = {}
    while line := stream.readline().decode().strip():  # type: ignore[attr-defined]
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    return first, fields, stream.read(int(fields["content-length"]))  # type: ignore[attr-defined]


@contextmanager
def plain_socket() -> Iterator[tuple[str, list[Arrived]]]:
    """An address, and what arrives there on one connection after the other."""
    arrived: list[Arrived] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                try:
                    while request := read(stream):
                        arrived.append(request)
                        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                except (OSError, ValueError):
                    pass  # wrk's time is over in the middle of a request

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", arrived
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@needs_wrk
def test_no_request_of_the_harder_load_is_like_another() -> None:
    with plain_socket() as (url, arrived):
        load = wrk(url, 1, 1, kind="different", targets=TARGETS)
    assert load.errors == 0
    assert len(arrived) > 200
    assert len({first for first, _, _ in arrived}) == len(arrived)
    assert len({fields["traceparent"] for _, fields, _ in arrived}) == len(arrived)
    assert len({body for _, _, body in arrived}) > 100
    assert len({fields["content-length"] for _, fields, _ in arrived}) > 20
    for first, fields, body in arrived:
        method, target, version = first.split()
        number = urlsplit(target).path.removeprefix("/t")
        assert (method, version) == ("POST", "HTTP/1.1")
        assert fields["host"] == f"h{number}.example"
        assert fields["x-tenant"] == f"n{number}"
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", fields["traceparent"])
        (user,) = parse_qs(urlsplit(target).query)["user"]
        assert fields["x-user-id"] == f"user-{user}"
        assert int(user) < USERS
        assert body.startswith(b'{"input": 4.0')
        assert body.endswith(b"}")


@needs_wrk
def test_requests_of_the_easier_load_are_alike() -> None:
    with plain_socket() as (url, arrived):
        load = wrk(url, 1, 1, kind="equal", targets=TARGETS)
    assert load.errors == 0
    first, fields, body = arrived[0]
    assert (first, fields["host"], fields["x-tenant"]) == (
        "POST /t9 HTTP/1.1", "h9.example", "n9",
    )  # fmt: skip
    assert all(request == (first, fields, body) for request in arrived)


def test_every_target_is_asked_for_as_often_as_the_next() -> None:
    asked = [request.split(b"?")[0] for request in different("127.0.0.1:1", TARGETS, 100)]
    assert {asked.count(b"POST /t%d" % n) for n in range(10)} == {10}
    assert asked != sorted(asked)


@needs_nginx
def test_answers_to_the_harder_load_carry_a_fresh_load_report_each() -> None:
    with nginx_upstreams(1) as (port,):
        reports = {kind: [answered(port, kind, number) for number in range(3)] for kind in KINDS}
    assert reports["equal"] == [None] * 3
    assert len(set(reports["different"])) == 3
    for report in reports["different"]:
        assert report is not None
        told = json.loads(report.removeprefix("JSON "))["named_metrics"]
        assert told.keys() == {"queue", "running", "slots", "wait_ms"}
        assert 0.0 < told["wait_ms"] < 1.0


def answered(port: int, kind: str, number: int) -> str | None:
    """The load report of an answer."""
    lines = "X-User-Id: user-1\r\n" if kind == "different" else ""
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"GET / HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n"
        client.sendall(head.encode())
        answer = client.makefile("rb").read().decode()
    assert "\r\nDate: " in answer
    found = re.search(r"(?m)^endpoint-load-metrics: (.*)\r$", answer)
    return found[1] if found else None


def test_how_many_requests_there_were_is_read() -> None:
    text = "  1234 requests in 2.00s, 1.00MB read\nRequests/sec:    617.00\n"
    assert parse(text).requests == 1234
