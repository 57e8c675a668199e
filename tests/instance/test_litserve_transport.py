"""How answers travel, beside a real server of LitServe that is asked the same."""

import gzip
import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import httpx
import numpy as np
import pytest

from instance.core.errors import RequestRefused
from instance.front import zipping
from instance.model.codec import parse_json, parse_untyped
from instance.model.framing import ItemFraming
from instance.requests import Request
from tests.harness.late import late_or_skip
from tests.harness.ports import free_port
from tests.instance.conftest import CLIENT, ROOT, Instance, Serve, eventually

late_or_skip("litserve")
MODELS = """
    import os, sys
    import litserve as ls
    from pydantic import BaseModel, Field

    class Item(BaseModel):
        value: int = Field(alias="named")

    class Plain(ls.LitAPI):
        def setup(self, device): ...
        def predict(self, x):
            if x == "worker":
                return {"worker": os.environ["LITSERVE_WORKER_ID"]}
            if isinstance(x, dict) and "size" in x:
                return {"text": "ab" * (x["size"] // 2)}
            return {"type": type(x).__name__, "text": str(x)}

    class Streaming(ls.LitAPI):
        def setup(self, device): ...
        def predict(self, x):
            yield from [{"a": 1, "text": "\\u00fc", "list": [1, 2]}, Item(named=3), {"b": None}]
        def encode_response(self, outputs):
            yield from outputs

    if __name__ == "__main__":
        name, port = sys.argv[1:]
        api = {"Plain": Plain, "Streaming": Streaming}[name](
            **({"stream": True} if name == "Streaming" else {}))
        ls.LitServer(api, accelerator="cpu").run(
            port=int(port), generate_client_file=False, log_level="error")
"""


@pytest.fixture
def litserve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of LitServe's own server of the model that the parameter names."""
    (tmp_path / "theirs.py").write_text(dedent(MODELS))
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "theirs.py", request.param, str(port)],
        cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: CLIENT.get(f"{url}/health").status_code == 200, 120)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def ours(serve: Serve, name: str, *more: str) -> Instance:
    return serve(MODELS, name, *more)


@pytest.mark.parametrize("litserve", ["Plain"], indirect=True)
def test_what_clients_of_litserve_see_is_the_same(serve: Serve, litserve: str) -> None:
    instance = ours(serve, "Plain")
    both = (litserve, instance.url)

    def answers(method: str, path: str, **options: object) -> list[httpx.Response]:
        got = [CLIENT.request(method, url + path, **options) for url in both]  # type: ignore[arg-type]
        assert len({answer.status_code for answer in got}) == 1
        return got

    assert len({answer.text for answer in answers("GET", "/")}) == 1
    theirs, mine = answers("POST", "/predict/?a=1", json=1, follow_redirects=False)
    assert mine.status_code == 307
    assert httpx.URL(theirs.headers["location"]).raw_path == mine.headers["location"].encode()
    (_, moved) = answers("POST", "/predict/", json=1, follow_redirects=True)
    assert moved.json()["text"] == "1"
    answers("GET", "/health/", follow_redirects=True)
    answers("GET", "/nowhere/", follow_redirects=False)
    for body in (b"123456789012345678901234567890", b"-9223372036854775809", b"[1]", b'{"a": 1}'):
        for kind in (
            "text/plain", "text/plain;charset=UTF-8", "application/json",
            "application/octet-stream", "image/png",
        ):  # fmt: skip
            theirs, mine = answers("POST", "/predict", content=body, headers={"Content-Type": kind})
            assert theirs.json() == mine.json()
    for size in (900, 2000, 60_000):
        theirs, mine = answers("POST", "/predict", json={"size": size})
        assert theirs.json() == mine.json()
        encodings = [answer.headers.get("content-encoding") for answer in (theirs, mine)]
        assert encodings == ([None, None] if size < 1000 else ["gzip", "gzip"])
        plain = {"Accept-Encoding": "identity"}
        for answer in answers("POST", "/predict", json={"size": size}, headers=plain):
            assert "content-encoding" not in answer.headers
    theirs, mine = answers("POST", "/predict", json="worker")
    assert theirs.json() == mine.json() == {"worker": "0"}


def chunks(url: str) -> list[bytes]:
    """The chunks of a streamed answer, as they are framed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Accept-Encoding: gzip\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1"
        )
        got = b""
        while part := sock.recv(65536):
            got += part
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"chunked" in head.lower()
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found


@pytest.mark.parametrize("litserve", ["Streaming"], indirect=True)
def test_each_item_of_a_stream_is_a_chunk_with_litserves_bytes(serve: Serve, litserve: str) -> None:
    instance = ours(serve, "Streaming", "--stream")
    assert chunks(instance.url) == chunks(litserve)


def test_workers_are_numbered(serve: Serve) -> None:
    instance = ours(serve, "Plain", "--workers", "2")
    assert instance.post("worker").json()["worker"] in ("0", "1")


def test_who_wants_no_compression_has_none(serve: Serve) -> None:
    instance = ours(serve, "Plain", "--no-gzip")
    headers = instance.post({"size": 5000}).headers
    assert "content-encoding" not in headers
    assert "vary" not in headers


def test_a_cache_is_told_of_what_is_compressed_for_some_whoever_asks(serve: Serve) -> None:
    instance = ours(serve, "Plain")
    for accepts in ("gzip", "identity"):
        wants = {"Accept-Encoding": accepts}
        varies = instance.post({"size": 5000}, headers=wants)
        assert varies.headers["vary"] == "Accept-Encoding"
        assert varies.headers.get("content-encoding", "identity") == accepts
        assert "vary" not in instance.post({"size": 10}, headers=wants).headers


@pytest.mark.parametrize(
    ("accepts", "kind", "extra", "wanted"),
    [
        (b"gzip, deflate", "application/json", b"", True),
        (b"br;q=1, GZIP;q=0.5", "text/html; charset=utf-8", b"", True),
        (b"gzip;q=0", "application/json", b"", False),
        (b"identity", "application/json", b"", False),
        (None, "application/json", b"", False),
        (b"gzip", "image/png", b"", False),
        (b"gzip", "application/octet-stream", b"", False),
        (b"gzip", "text/event-stream", b"", False),
        (b"gzip", "application/problem+json", b"", True),
        (b"gzip", "application/json", b"content-encoding: br\r\n", False),
    ],
)
def test_what_is_compressed(accepts: bytes | None, kind: str, extra: bytes, wanted: bool) -> None:
    assert (zipping.is_taken(accepts) and zipping.is_offered(kind, extra)) is wanted


def test_what_is_compressed_is_gzip() -> None:
    assert gzip.decompress(zipping.zipped(b"x" * 5000, 1)) == b"x" * 5000
    assert zlib.decompress(zipping.zipped(memoryview(b"y" * 50), 1), 31) == b"y" * 50


@pytest.mark.parametrize(
    "text",
    [
        "18446744073709551615", "18446744073709551616", "-9223372036854775808",
        "-9223372036854775809", "-9999999999999999999", '{"a": [123456789012345678901234567890]}',
        "0.12345678901234567890123", "1.5e-12", '"12345678901234567890123"',
        "[1e22, 12345678901234567890.5, 100000000000000000000e2]",
    ],
)  # fmt: skip
def test_numbers_are_read_as_python_reads_them(text: str) -> None:
    value, expected = parse_json(text.encode()), json.loads(text)
    assert (value, repr(value)) == (expected, repr(expected))
    assert Request(body=text.encode()).json() == expected


@pytest.mark.parametrize(
    "text", ["[NaN, 12345678901234567890123]", "[12345678901234567890123", "[" * 9999 + "9" * 30]
)
def test_what_is_no_json_is_none_with_huge_numbers_either(text: str) -> None:
    with pytest.raises(RequestRefused):
        parse_json(text.encode())


def test_an_integer_longer_than_python_reads_is_refused_for_that() -> None:
    most = 10**4299 + 1
    assert parse_json(b"[%d]" % most) == [most]
    with pytest.raises(RequestRefused) as refused:
        parse_json(b"[%d9]" % most)
    assert refused.value.problem.detail == (
        "the body is not JSON: an integer in it has more than 4,300 digits"
    )


def test_plain_text_is_json_where_it_is_and_else_bytes() -> None:
    for text, value in {"hello": b"hello", '{"a": 1}': {"a": 1}, "": b""}.items():
        kind = "text/plain;charset=UTF-8"
        assert parse_untyped(Request(body=text.encode(), content_type=kind)) == value


@pytest.mark.parametrize("word", [":", ":\n\n", "id:", "data: x", "event:\n", "retry:"])
def test_words_that_look_like_lines_of_events_are_words(word: str) -> None:
    framing = ItemFraming("Now", True, None)
    event = framing.item(word)
    assert event == "".join(f"data: {line}\n" for line in word.split("\n")).encode() + b"\n"


def test_a_model_may_frame_its_events_itself() -> None:
    for pieces in (["data: a\n\n", ": still here\n\n"], ["event: b\n", "data: 1\n\n"], [":\n\n"]):
        framing = ItemFraming(pieces[0], True, None)
        assert [framing.item(piece) for piece in pieces] == [piece.encode() for piece in pieces]
    framing = ItemFraming({"a": 1}, True, None)
    assert framing.item("event: end\r\ndata: 1\r\n\r\n") == b"event: end\r\ndata: 1\r\n\r\n"
    assert framing.item("retry: 3000\n\n") == b"retry: 3000\n\n"


def test_dicts_of_a_stream_that_only_we_can_write_keep_litserves_spaces() -> None:
    framing = ItemFraming({}, False, None)
    assert framing.item({"a": np.float32(1.5), "b": np.arange(2)}) == b'{"a": 1.5, "b": [0, 1]}\n'
    with pytest.raises(ValueError, match="holds NaN at /a"):
        framing.item({"a": float("nan")})
