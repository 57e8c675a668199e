"""R9: Expect is the gateway's to answer: once, only when the body will be read, never passed on."""

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import parse_responses, wire

HEAD = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n"


async def test_r09_an_accepted_expectation_gets_one_100_and_is_not_forwarded() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        async with wire(gateway.data_port) as client:
            await client.send(HEAD + b"Expect: 100-continue\r\n\r\n")
            await client.read_until(b"HTTP/1.1 100")
            await client.send(b"hello")
            reply = await client.read_response()
        assert reply.status == 200
        assert reply.informational == [100]
        assert origin.exchanges[0].all("expect") == []
        assert origin.exchanges[0].body == b"hello"


async def test_r09_a_refused_request_gets_no_100_and_its_body_is_never_a_request() -> None:
    async with one_origin() as origin:
        document = one_backend(origin, route={"max_body": "4B", "match": "/x"})
        async with running_gateway(document) as gateway:
            for head, status in ((HEAD, 413), (HEAD.replace(b"/x", b"/none"), 404)):
                async with wire(gateway.data_port) as client:
                    await client.send(head + b"Expect: 100-continue\r\n\r\n")
                    await client.read_until_quiet(0.5)
                    parsed = parse_responses(bytes(client.received), ["POST"], True)
                    assert [r.status for r in parsed.responses] == [status]
                    assert parsed.responses[0].informational == []
                    if not client.ended:
                        await client.send(b"GET /x")
                        assert len(await client.read_until_quiet(0.3)) >= 0
        assert origin.exchanges == []


async def test_r09_an_unknown_expectation_is_417() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        async with wire(gateway.data_port) as client:
            await client.send(HEAD + b"Expect: 200-ok\r\n\r\n")
            assert (await client.read_response()).status == 417
        assert origin.exchanges == []


async def test_r09_http_1_0_gets_no_interim_response() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        async with wire(gateway.data_port) as client:
            head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
            await client.send(head + b"Expect: 100-continue\r\n\r\nhello")
            await client.read_until_quiet(0.5)
            assert b" 100 " not in client.received
            assert client.received.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
