"""R10: limits hold where they are said to be, and abuse costs the abuser more than the gateway."""

import socket
import threading
import time
from collections.abc import Iterable

import psutil
import pytest

from tests.harness.cases import final_codes, play
from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

GET = b"GET %s HTTP/1.1\r\nHost: gw.test\r\n%s\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: gw.test\r\n%s\r\n"
MANY = b"".join(b"X-%d: v\r\n" % number for number in range(120))
FEW = b"".join(b"X-%d: v\r\n" % number for number in range(80))
WIDE = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(40))
PASS = {
    "a target of 8,000 bytes": GET % (b"/" + b"a" * 7999, b""),
    "a header of 7 KiB": GET % (b"/", b"X-Long: " + b"v" * 7168 + b"\r\n"),
    "80 headers": GET % (b"/", FEW),
}
REFUSE = {
    "a target of 9 KiB": (GET % (b"/" + b"a" * 9216, b""), (414, 400)),
    "120 headers": (GET % (b"/", MANY), (431, 400)),
    "a head of 40 KiB": (GET % (b"/", WIDE), (431, 400)),
}


async def test_r10_heads_within_the_limits_pass_and_beyond_are_refused(plain: Plain) -> None:
    gateway, origin = plain
    for name, data in PASS.items():
        outcome = await play(gateway, origin, [data])
        assert outcome.statuses == [200], (name, outcome)
    for name, (data, statuses) in REFUSE.items():
        outcome = await play(gateway, origin, [data])
        assert len(outcome.statuses) == 1, (name, outcome)
        assert outcome.statuses[0] in statuses, (name, outcome)
        assert outcome.upstream == [], name


async def test_r10_limits_hold_when_a_byte_comes_at_a_time() -> None:
    # Not the limit on time: on a busy machine so many bytes take a while.
    settings = {"head_timeout": "120s"}
    async with one_origin() as origin, running_gateway(one_backend(origin), **settings) as gateway:
        for name, (data, statuses) in REFUSE.items():
            async with wire(gateway.data_port) as client:
                await client.send_slowly(data)
                await client.read_answer()
                wanted = [b"%d" % status for status in statuses]
                assert client.received[9:12] in wanted, (name, client.ended)
        assert origin.exchanges == []


async def test_r10_a_body_over_the_limit_is_413_announced_or_counted() -> None:
    async with one_origin() as origin:
        document = one_backend(origin, route={"max_body": "64KiB"})
        async with running_gateway(document) as gateway:
            outcome = await play(gateway, origin, [POST % b"Content-Length: 65537\r\n"])
            assert outcome.statuses == [413], outcome
            assert outcome.upstream == []
            chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
            data = POST % b"Transfer-Encoding: chunked\r\n" + chunk * 4 + b"0\r\n\r\n"
            outcome = await play(gateway, origin, [data])
            assert outcome.statuses in ([413], []), outcome
            assert outcome.completed == 0
            outcome = await play(
                gateway, origin, [POST % b"Content-Length: 65536\r\n" + b"x" * 65536]
            )
            assert outcome.statuses == [200], outcome


async def _cost(gateway: Gateway, data: bytes, bytewise: bool) -> tuple[bytes, int, float]:
    """The answer to `data`, and what it cost the workers in bytes and CPU seconds."""
    workers = [psutil.Process(pid) for pid in await gateway.worker_pids()]
    rss = sum(w.memory_info().rss for w in workers)
    cpu = sum(sum(w.cpu_times()[:2]) for w in workers)
    async with wire(gateway.data_port) as client:
        if bytewise:
            await client.send_slowly(data)
        else:
            await client.send(data)
        await client.read_till(final_codes, 120)
        await client.read_until_quiet(0.1)
        answer = bytes(client.received)
    grown = sum(w.memory_info().rss for w in workers) - rss
    return answer, grown, sum(sum(w.cpu_times()[:2]) for w in workers) - cpu


def _made(pieces: Iterable[bytes], size: int) -> tuple[bytes, float]:
    """The bytes of an attack, and the CPU seconds it takes to make and to send them, `size` in
    each write."""
    began = time.thread_time()
    data = b"".join(pieces)
    here, there = socket.socketpair()
    with here, there:
        reader = threading.Thread(target=_read_all, args=[there])
        reader.start()
        for start in range(0, len(data), size):
            here.sendall(data[start : start + size])
        spent_s = time.thread_time() - began
        here.shutdown(socket.SHUT_WR)
        reader.join()
    return data, spent_s


def _read_all(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass


CHUNKED = POST % b"Transfer-Encoding: chunked\r\n"
ABUSE = {
    "extensions": lambda: [CHUNKED, b"5;", b"e" * 102_400, b"\r\nhello\r\n0\r\n\r\n"],
    "trailers": lambda: [CHUNKED, b"0\r\n", *(b"X-T: v\r\n" for _ in range(10**5)), b"\r\n"],
    "tiny chunks": lambda: [CHUNKED, *(b"1\r\nx\r\n" for _ in range(10**6)), b"0\r\n\r\n"],
    "empty lines": lambda: [*(b"\r\n" for _ in range(10**6)), GET % (b"/", b"")],
}


async def _abuse(pieces: Iterable[bytes], bytewise: bool = False, spending: int = 1 << 16) -> None:
    """`spending`: the bytes of each write of the client whose CPU ours is compared with."""
    data, spent_s = _made(pieces, spending)
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        answer, grown, cpu_s = await _cost(gateway, data, bytewise)
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), answer[:200]
        assert grown <= min(100 * len(data), 32 << 20), f"{grown >> 20} MiB"
        # The kernel counts processor time in hundredths of a second.
        assert cpu_s <= 100 * max(spent_s, 0.01), f"{cpu_s} s of CPU for {spent_s} s"
        assert origin.malformed == []
        assert (await gateway.client.get(f"{gateway.url}/after")).status == 200


@pytest.mark.parametrize("kind", ABUSE)
async def test_r10_abusive_chunks_are_refused_or_served_cheaply(kind: str) -> None:
    await _abuse(ABUSE[kind]())


@pytest.mark.parametrize("kind", ["extensions", "trailers"])
async def test_r10_abuse_a_byte_at_a_time_is_refused_as_cheaply(kind: str) -> None:
    await _abuse(ABUSE[kind](), bytewise=True)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["tiny chunks", "empty lines"])
async def test_r10_a_million_of_anything_a_byte_at_a_time_costs_no_more(kind: str) -> None:
    # These are served to the last byte, and each byte is a system call for both.
    await _abuse(ABUSE[kind](), bytewise=True, spending=1)
