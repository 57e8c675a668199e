"""R11: answers that have no body have none on the wire, whatever the instance sends."""

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import Origin, one_origin, raw
from tests.harness.wire import Response, parse_responses, wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

FOLLOW_UP = b"GET /after HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n"


async def pair(gateway: Gateway, origin: Origin, method: str, answer: bytes) -> list[Response]:
    """The answer to `method` and to one more request on the same connection."""
    origin.respond = raw(answer, close=False)
    async with wire(gateway.data_port) as client:
        await client.send(f"{method} /x HTTP/1.1\r\nHost: gw.test\r\n\r\n".encode())
        await client.read_answer(method)
        origin.respond = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter", close=False)
        await client.send(FOLLOW_UP)
        await client.read_for()
        parsed = parse_responses(bytes(client.received), [method, "GET"], True)
    assert parsed.fault == "", parsed
    return parsed.responses


async def test_r11_head_204_and_304_have_no_body_and_keep_the_connection_in_step(
    plain: Plain,
) -> None:
    cases = [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200, ["1234"]),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, []),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', 304, None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", 304, None),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ["0"]),
    ]
    gateway, origin = plain
    for method, answer, status, lengths in cases:
        first, second = await pair(gateway, origin, method, answer)
        assert (first.status, first.body) == (status, b""), (method, answer)
        if lengths is not None:
            assert first.all("content-length") == lengths, (method, answer)
        if status == 204:
            assert first.all("transfer-encoding") == []
        assert (second.status, second.body) == (200, b"after"), (method, answer)


async def test_r11_an_early_hint_is_passed_and_never_final(plain: Plain) -> None:
    gateway, origin = plain
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    first, second = await pair(gateway, origin, "GET", answer)
    assert (first.status, first.body) == (200, b"ok")
    assert first.informational == [103]
    assert second.body == b"after"


async def test_r11_the_bytes_on_the_wire_are_these() -> None:
    golden = [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-A: 1\r\nDate: x\r\n\r\n",
         b"HTTP/1.1 200 OK\r\nX-A: 1\r\nDate: x\r\nVia: 1.1 node\r\nContent-Length: 1234\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
         b"HTTP/1.1 204 No Content\r\nDate: x\r\nVia: 1.1 node\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nDate: x\r\n\r\n",
         b"HTTP/1.1 304 Not Modified\r\nDate: x\r\nVia: 1.1 node\r\nContent-Length: 77\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
         b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: x\r\n\r\n",
         b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
         b"HTTP/1.1 200 OK\r\nDate: x\r\nVia: 1.1 node\r\nContent-Length: 0\r\n\r\n"),
    ]  # fmt: skip
    settings = {"expose": False, "node": "node"}
    async with one_origin() as origin, running_gateway(one_backend(origin), **settings) as gateway:
        for method, answer, expected in golden:
            origin.respond = raw(answer, close=False)
            async with wire(gateway.data_port) as client:
                await client.send(f"{method} /x HTTP/1.1\r\nHost: gw.test\r\n\r\n".encode())
                await client.read_answer(method)
                assert bytes(client.received) == expected
