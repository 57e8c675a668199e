"""What is written down and counted of a request is what its client sent and got."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.rig import Conversation, Rig
from tests.harness.gateway import eventually

AT = b" HTTP/1.1\r\nHost: gw.test\r\n"


async def logged(gateway: Rig, path: Path, count: int) -> list[dict[str, Any]]:
    """The lines of the access log at `path`, once there are `count`."""

    def lines() -> list[str]:
        gateway.plane.ledger.flush()
        return path.read_text().splitlines()

    await eventually(lambda: len(lines()) >= count, what=f"{count} lines")
    return [json.loads(line) for line in lines()]


async def test_the_bytes_sent_of_a_stream_are_those_of_its_body(rig, stub, tmp_path):
    goes_on = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
        conversation.write(head + b"5\r\nhello\r\n")
        await goes_on.wait()
        conversation.write(b"5\r\nworld\r\n0\r\n\r\n")

    log = tmp_path / "log"
    gateway, instance = await rig(access_log=str(log)), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"GET /" + AT + b"\r\n")
    await peer.reader.readuntil(b"hello")
    goes_on.set()
    await peer.reader.readuntil(b"world\r\n0\r\n\r\n")
    (line,) = await logged(gateway, log, 1)
    assert line["sent"] == len(b"helloworld")
    peer.close()


async def test_of_a_websocket_what_passed_both_ways_is_written_down(rig, stub, tmp_path):
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert await conversation.reader.readexactly(5) == b"\x81\x03one"
        conversation.write(b"\x81\x05hello")

    log = tmp_path / "log"
    gateway, instance = await rig(access_log=str(log)), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"GET /" + AT + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81")
    await peer.reader.readuntil(b"\r\n\r\n")
    peer.write(b"\x03one")
    assert await peer.reader.read() == b"\x81\x05hello"
    (line,) = await logged(gateway, log, 1)
    assert (line["status"], line["received"], line["sent"]) == (101, 5, 7)
    peer.close()


async def test_an_answer_without_a_body_has_sent_none(rig, tmp_path):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log))
    gateway.table({})
    peer = await gateway.connect()
    for target in (b"/nowhere", b"/-/health?x", b"/-/nothing"):
        peer.write(b"HEAD " + target + AT + b"\r\n")
        assert (await peer.answer(b"HEAD")).status in (200, 404)
    lines = await logged(gateway, log, 2)
    assert [(line["path"], line["sent"]) for line in lines] == [("/nowhere", 0), ("/-/nothing", 0)]


REFUSED = {
    "expectation_failed": b"%b /a?secret HTTP/1.1\r\nHost: gw.test\r\nExpect: tea\r\n\r\n",
    "head_too_large": b"%b /a?secret HTTP/1.1\r\nHost: gw.test\r\nX: "
    + b"x" * 70_000
    + b"\r\n\r\n",
    "bad_request": b"%b /a?secret HTTP/1.1\r\nHost: gw.test\r\nHost: gw.test\r\n\r\n",
}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"BREW"])
@pytest.mark.parametrize("code", REFUSED)
async def test_a_head_that_is_refused_is_booked_by_its_request_line(rig, tmp_path, code, method):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log))
    gateway.table({})
    peer = await gateway.connect()
    peer.write(REFUSED[code] % method)
    answer = await peer.answer(method)
    assert answer.error == code
    if method == b"HEAD":
        assert await peer.reader.read() == b"", "no body follows the answer to a HEAD"
    (line,) = await logged(gateway, log, 1)
    path = "" if code == "bad_request" else "/a"  # of what is malformed nothing else is said
    assert (line["method"], line["path"], line["reason"]) == (method.decode(), path, code)
    label = "other" if method == b"BREW" else method.decode()
    assert gateway.counted() == {(label, str(answer.status), code): 1}
    peer.close()


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (b"GET /" + b"x" * 9000 + AT + b"\r\n", "GET"),
        (b"POST /" + b"x" * 70_000, "POST"),
        (b"GET nowhere" + AT + b"\r\n", "GET"),
        (b"GET / HTTP/9\r\n\r\n", "GET"),
        (b"GET\x00 /\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""),
    ],
)
async def test_of_a_request_line_that_is_none_no_target_is_written_down(
    rig, tmp_path, data, method
):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log))
    gateway.table({})
    answer = await gateway.ask(data)
    assert answer.status in (400, 414)
    (line,) = await logged(gateway, log, 1)
    assert (line["method"], line["path"]) == (method, "")


async def test_a_head_that_came_too_late_took_as_long_as_it_was_waited_for(rig, tmp_path):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log), head_timeout_s=0.3)
    gateway.table({})
    answer = await gateway.ask(b"GET /slow" + AT)
    assert answer.error == "request_timeout"
    (line,) = await logged(gateway, log, 1)
    assert (line["method"], line["path"]) == ("GET", "/slow")
    assert line["seconds"] >= 0.3


async def test_a_refused_head_below_openais_paths_has_what_its_clients_show(rig):
    gateway = await rig()
    gateway.table({})
    answer = await gateway.ask(b"GET /v1/chat/completions" + AT + b"Expect: tea\r\n\r\n")
    assert answer.error == "expectation_failed"
    assert json.loads(answer.body)["error"]["code"] == "expectation_failed"


async def test_who_asked_is_the_client_of_a_proxy_that_is_trusted(rig, stub, tmp_path):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log), trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))
    gateway.one(await stub())
    said = (b"", b"6.6.6.6, 203.0.113.7, 10.0.0.9", b"203.0.113.7", b"nobody")
    for hops in said:
        line = b"X-Forwarded-For: " + hops + b"\r\n" if hops else b""
        await gateway.ask(b"GET /" + AT + line + b"\r\n")
    lines = await logged(gateway, log, len(said))
    found = [line["client"] for line in lines]
    assert found == ["127.0.0.1", "203.0.113.7", "203.0.113.7", "127.0.0.1"]


async def test_what_a_stranger_says_of_a_client_is_not_written_down(rig, stub, tmp_path):
    log = tmp_path / "log"
    gateway = await rig(access_log=str(log), trusted_proxies=("10.0.0.0/8",))
    gateway.one(await stub())
    await gateway.ask(b"GET /" + AT + b"X-Forwarded-For: 203.0.113.7\r\n\r\n")
    (line,) = await logged(gateway, log, 1)
    assert line["client"] == "127.0.0.1"


UPLOADS = {
    "body_too_large": b"Content-Length: 2000\r\n\r\n",
    "body_too_large as it grows": b"Transfer-Encoding: chunked\r\n\r\n5dc\r\n" + b"x" * 1500,
    "request_timeout": b"Content-Length: 500\r\n\r\nx",
    "deadline": b"X-Request-Timeout: 100ms\r\nContent-Length: 500\r\n\r\nx",
    "client_left": b"Content-Length: 500\r\n\r\nx",
}


@pytest.mark.parametrize("case", UPLOADS)
async def test_an_upload_that_ends_before_it_is_whole_is_booked_at_its_route(
    rig, stub, tmp_path, case
):
    code, log = case.partition(" ")[0], tmp_path / "log"
    gateway = await rig(access_log=str(log), body_idle_s=0.3 if code == "request_timeout" else 30)
    gateway.one(await stub(), route={"match": "/x", "max_body": "1KiB"})
    peer = await gateway.connect()
    peer.write(b"POST /x" + AT + UPLOADS[case])
    if code == "client_left":
        await eventually(lambda: [c for c in gateway.plane.clients if c.exchange is not None])
        peer.close()
    else:
        answer = await peer.answer()
        assert (answer.error, answer.get("x-headgate-route")) == (code, "r")
        peer.close()
    (line,) = await logged(gateway, log, 1)
    assert (line["reason"], line["route"], line["backend"]) == (code, "r", "")
    assert line["revision"] == 1
