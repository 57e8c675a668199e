"""R23: events arrive when they are written, for as long as they come."""

import time

import pytest

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import percentile
from tests.harness.origins import Exchange, events, one_origin
from tests.harness.stretch import Stretch
from tests.harness.wire import wire


async def _lags(count: int, interval_s: float) -> tuple[list[float], float]:
    """How late each event came, in seconds, through a stream with an idle limit of 2 s; and how
    many times as long all takes here."""
    lags: list[float] = []
    async with one_origin(events(count, interval_s)) as origin:
        document = one_backend(origin, timeouts={"idle": "2s", "response": "2s"})
        async with running_gateway(document, stream_idle="2s") as gateway, Stretch() as work:

            def seen(data: bytes) -> None:
                now = time.monotonic()
                for line in data.split(b"\n\n"):
                    if line.startswith(b"data: "):
                        lags.append(now - float(line.split()[2]))

            reply = await gateway.client.get(f"{gateway.url}/s", timeout=3600, on_body=seen)
    assert (reply.status, reply.error) == (200, "")
    return lags, work.between(reply.intended, reply.done)


async def test_r23_an_active_stream_is_never_cut_and_events_come_at_once() -> None:
    lags, stretch = await _lags(count=40, interval_s=0.1)
    assert len(lags) == 40
    # A pause of the machine makes those late that are written in it.
    assert percentile(lags, 90) <= 0.05 * stretch, sorted(lags)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_r23_ten_minutes_of_events_are_never_cut() -> None:
    lags, stretch = await _lags(count=750, interval_s=0.8)
    assert len(lags) == 750
    assert percentile(lags, 99) <= 0.05 * stretch, sorted(lags)[-20:]


async def test_r23_a_silent_stream_is_closed_at_the_idle_limit_and_not_cleanly() -> None:
    wrote = 0.0

    async def silent(exchange: Exchange) -> None:
        nonlocal wrote
        wrote = time.monotonic()
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        await exchange.gone.wait()

    async with one_origin(silent) as origin:
        document = one_backend(origin, timeouts={"idle": "1s"})
        async with running_gateway(document, stream_idle="1s") as gateway:
            async with wire(gateway.data_port) as client:
                await client.send(b"GET /s HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                await client.read_until(b"data: 1")
                await client.ends_within(60)
                took = time.monotonic() - wrote
                assert took >= 1
                assert took <= 2.5, took
                assert not client.received.endswith(b"0\r\n\r\n")
