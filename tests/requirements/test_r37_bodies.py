"""R37: no body that a stranger sends makes others wait, also where a route is chosen by bodies."""

import asyncio
from contextlib import suppress

import pytest

from tests.harness.gateway import Gateway, backend, running_gateway
from tests.harness.origin_process import one_process
from tests.harness.trickle import Trickle

SIZE = 64 << 20
LARGEST = 8 << 20
PIECE = b"[]," * 21845  # 64 KiB
STALL_S = 1.0
"""Built as objects, such a body stopped a worker for 7 to 17 s."""

MAX_GROWTH = 64 << 20
"""Of the workers' memory; those objects took 2.2 GB."""


def announced(size: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % size


async def send(gateway: Gateway, framing: bytes, size: int) -> bytes:
    """The head of the answer to a body of `size` bytes, a list of empty lists."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.data_port)
    is_chunked = b"chunked" in framing
    left = size

    async def write() -> None:
        nonlocal left
        writer.write(
            b"POST /chat HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n" + framing
        )
        while left > 0:
            piece = (b"[" + PIECE)[: min(left, len(PIECE))] if left == size else PIECE[:left]
            left -= len(piece)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            await writer.drain()
            await asyncio.sleep(0)  # or the answer would be read only after the pipe is broken
        if is_chunked:
            writer.write(b"0\r\n\r\n")

    writing = asyncio.create_task(write())
    try:
        async with asyncio.timeout(120):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await writing
        writer.close()


@pytest.mark.parametrize("match_body", ["1MiB", "8MiB"])
async def test_r37_a_hostile_body_stalls_nobody_and_an_edit_meanwhile_loses_nobody(
    match_body: str,
) -> None:
    async with one_process() as origin:
        document = {
            "backends": {"main": backend(origin)},
            "routes": {
                "chosen": {
                    "match": {"path": "/chat", "json": {"model": "a"}}, "split": {"main": 1}
                },
                "chat": {"match": "/chat", "split": {"main": 1}},
                "main": {"match": "/main", "split": {"main": 1}},
            },
        }  # fmt: skip
        async with running_gateway(document, access_log="off", match_body=match_body) as gateway:
            workers, memory = await gateway.worker_pids(), await gateway.worker_rss()
            # The same, without the gateway: what of it is the machine's doing.
            async with Trickle((gateway.data_port, origin.port), ["/main"]) as asking:
                for number in range(4):
                    heads = await asyncio.gather(
                        send(gateway, announced(SIZE), SIZE),
                        send(gateway, b"Transfer-Encoding: chunked\r\n\r\n", SIZE),
                        # As large as it may be: it is searched, and has no fields.
                        send(gateway, announced(1 << 20), 1 << 20),
                        send(gateway, announced(LARGEST), LARGEST),
                        gateway.set_weights("main", {"main": number + 1}),
                    )
                    statuses = [head.split()[1] for head in heads[:4] if isinstance(head, bytes)]
                    allowed = b"200" if match_body == "8MiB" else b"413"
                    assert statuses == [b"413", b"413", b"200", allowed]
                asked, direct = await asking.end()
            assert await gateway.worker_pids() == workers, "a worker was replaced"
            assert await gateway.worker_rss() - memory < MAX_GROWTH
    assert {each.status for each in asked + direct} == {200}
    later = [one.took_s - other.took_s for one, other in zip(asked, direct, strict=True)]
    assert max(later) < STALL_S
