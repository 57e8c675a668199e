"""R9: Expect is the gateway's to answer: once, only when the body will be read, never passed on."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.harness.gateway import backend, eventually, running_gateway
from tests.harness.origins import hang, one_origin
from tests.harness.wire import Response, parse_responses, wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

HEAD = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n"


async def test_r09_an_accepted_expectation_gets_one_100_and_is_not_forwarded(plain: Plain) -> None:
    gateway, origin = plain
    async with wire(gateway.data_port) as client:
        await client.send(HEAD + b"Expect: 100-continue\r\n\r\n")
        await client.read_until(b"HTTP/1.1 100")
        await client.send(b"hello")
        reply = await client.read_response()
    assert reply.status == 200
    assert reply.informational == [100]
    assert origin.exchanges[0].all("expect") == []
    assert origin.exchanges[0].body == b"hello"


def at(path: bytes, head: bytes) -> bytes:
    return head.replace(b"/x", path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing() -> AsyncIterator[Plain]:
    """A gateway that refuses: at `/small` bodies, at `/weightless` all; `/late`, `/large` and
    `/full` take one request, and one that waits, at `/late` not for long, at an origin that never
    answers."""

    def busy(timeout: str) -> dict[str, Any]:
        return backend(origin, max_in_flight=1, queue={"size": 1, "timeout": timeout})

    async with one_origin(hang) as origin:
        document = {
            "backends": {
                "main": backend(origin),
                "late": busy("500ms"),
                "large": busy("60s"),
                "full": busy("60s"),
            },
            "routes": {
                "small": {"match": "/small", "split": {"main": 1}, "max_body": "4B"},
                "weightless": {"match": "/weightless", "split": {"main": 0}},
                "late": {"match": "/late", "split": {"late": 1}},
                "large": {"match": "/large", "split": {"large": 1}},
                "full": {"match": "/full", "split": {"full": 1}},
            },
        }
        async with running_gateway(document) as gateway:
            yield gateway, origin


async def test_r09_a_refused_request_gets_no_100_and_its_body_is_never_a_request(
    refusing: Plain,
) -> None:
    gateway, origin = refusing
    before = len(origin.exchanges)
    for path, status in ((b"/small", 413), (b"/none", 404)):
        async with wire(gateway.data_port) as client:
            await client.send(at(path, HEAD) + b"Expect: 100-continue\r\n\r\n")
            await client.read_for()
            parsed = parse_responses(bytes(client.received), ["POST"], True)
            assert [r.status for r in parsed.responses] == [status]
            assert parsed.responses[0].informational == []
            assert client.ended, "a body that nobody asked for may still come"
            assert parsed.responses[0].header("connection") == "close"
    assert len(origin.exchanges) == before


LARGE = HEAD.replace(b"Length: 5", b"Length: 1000000") + b"Expect: 100-continue\r\n\r\n"
SMALL = HEAD + b"Expect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("head", [SMALL, LARGE], ids=["small", "large"])
async def test_r09_a_route_without_weight_asks_for_no_body(refusing: Plain, head: bytes) -> None:
    gateway, _ = refusing
    async with wire(gateway.data_port) as client:
        await client.send(at(b"/weightless", head))
        reply = await client.read_response()
    assert (reply.status, reply.informational) == (503, [])
    assert reply.header("x-headgate-error") == "no_weight"


async def test_r09_a_large_body_is_asked_for_once_there_is_an_instance_for_it(
    refusing: Plain,
) -> None:
    gateway, _ = refusing
    for path, code in ((b"/large", "queue_full"), (b"/late", "queue_timeout")):
        async with wire(gateway.data_port) as first, wire(gateway.data_port) as waits:
            await first.send(at(path, LARGE))
            await first.read_until(b"HTTP/1.1 100")
            await waits.send(at(path, LARGE))
            if code == "queue_timeout":
                assert_refused(await waits.read_response(), code)
                continue

            async def queued() -> bool:
                metrics = await gateway.metrics()
                return metrics.total("headgate_queue_depth", backend="large") == 1

            await eventually(queued, what="the second waits")
            async with wire(gateway.data_port) as full:
                await full.send(at(path, LARGE))
                assert_refused(await full.read_response(), code)


def assert_refused(reply: Response, code: str) -> None:
    """Nobody was asked for the body."""
    assert (reply.status, reply.informational) == (503, [])
    assert reply.header("x-headgate-error") == code


async def test_r09_a_full_queue_asks_for_no_small_body_either(refusing: Plain) -> None:
    gateway, _ = refusing
    async with wire(gateway.data_port) as first, wire(gateway.data_port) as waits:
        for client, where in (
            (first, "headgate_in_flight"),
            (waits, "headgate_queue_depth"),
        ):
            await client.send(at(b"/full", HEAD) + b"\r\nhello")

            async def there(where: str = where) -> bool:
                return (await gateway.metrics()).total(where, backend="full") == 1

            await eventually(there, what="one is there, the next one waits")
        async with wire(gateway.data_port) as full:
            await full.send(at(b"/full", SMALL))
            reply = await full.read_response()
    assert_refused(reply, "queue_full")
    assert reply.header("retry-after")


async def test_r09_an_unknown_expectation_is_417(plain: Plain) -> None:
    gateway, origin = plain
    async with wire(gateway.data_port) as client:
        await client.send(HEAD + b"Expect: 200-ok\r\n\r\n")
        assert (await client.read_response()).status == 417
    assert origin.exchanges == []


async def test_r09_http_1_0_gets_no_interim_response(plain: Plain) -> None:
    gateway, _ = plain
    async with wire(gateway.data_port) as client:
        head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
        await client.send(head + b"Expect: 100-continue\r\n\r\nhello")
        await client.read_answer()
        assert b" 100 " not in client.received
        assert client.received.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
