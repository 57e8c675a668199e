"""What a whole gateway writes into its access log and answers to a scrape."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.sampling import Sampling
from gateway.telemetry.access_log import AccessLog, Entry, members
from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.origins import Exchange, one_origin

SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


async def by_path(exchange: Exchange) -> None:
    """Answers the status that the path names, slowly where it says so."""
    await exchange.read()
    _, status, pace, *_ = exchange.target.decode().split("/")
    if pace == "slow":
        await exchange.sleep(0.4)
    exchange.reply(int(status), b"x")


async def logged(gateway: Gateway, last: str) -> list[dict[str, Any]]:
    """The lines of the log, once the request called `last` is in it."""
    path = gateway.folder / "access.log"
    await eventually(lambda: path.exists() and last in path.read_text(), what=f"{last} is logged")
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_r70_a_sampled_log_rebuilds_the_counts_that_the_metrics_hold_exactly() -> None:
    settings = {"access_log_percent": 20, "access_log_slow": "300ms"}
    async with one_origin(by_path) as origin:
        async with running_gateway(one_backend(origin), **settings) as gateway:
            get = gateway.client.get
            for number in range(200):
                assert (await get(f"{gateway.url}/200/quick/{number}")).status == 200
            assert (await get(f"{gateway.url}/500/quick")).status == 500
            assert (await get(f"{gateway.url}/200/slow")).status == 200
            refused = await gateway.client.request(
                "GET", f"{gateway.url}/200/quick", headers=[("Via", "1.1 x"), ("Expect", "y")]
            )
            assert refused.status == 417
            lines = await logged(gateway, refused.header("x-request-id"))

            async def counted() -> bool:
                samples = await gateway.metrics()
                return samples.total("headgate_requests_total", route="all", code="200") == 201

            await eventually(counted, what="201 requests are counted")
    ordinary = [line for line in lines if line["path"].startswith("/200/quick/")]
    always = [line for line in lines if line not in ordinary]
    for line in ordinary:  # on a busy machine one of them is slow as well
        assert line["sample_percent"] == (100 if line["seconds"] >= 0.3 else 20)
    assert 150 <= sum(100 / line["sample_percent"] for line in ordinary) <= 250
    assert sorted(line["status"] for line in always) == [200, 417, 500]
    assert {line["sample_percent"] for line in always} == {100}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def usual() -> AsyncIterator[Gateway]:
    """A gateway with the log that it writes by itself."""
    async with one_origin(by_path) as origin, running_gateway(one_backend(origin)) as gateway:
        yield gateway


@SHARED_LOOP
async def test_health_probes_are_counted_and_not_logged(usual: Gateway) -> None:
    for _ in range(5):
        assert (await usual.client.get(f"{usual.url}/-/health")).status == 200
    last = await usual.client.get(f"{usual.url}/200/quick")
    lines = await logged(usual, last.header("x-request-id"))
    samples = await usual.metrics()
    assert [line["path"] for line in lines] == ["/200/quick"]
    assert samples.total("headgate_requests_total", route="", code="200") >= 5


@SHARED_LOOP
async def test_lost_lines_are_counted_from_nothing_on(usual: Gateway) -> None:
    """A series that begins with its first losses would be none to `increase()`."""
    text = (await usual.client.get(f"{usual.admin_url}/metrics")).body.decode()
    lost = [line for line in text.splitlines() if line.startswith("headgate_log_dropped_total{")]
    assert sorted(lost) == [
        'headgate_log_dropped_total{process="control",log="messages"} 0',
        'headgate_log_dropped_total{process="supervisor",log="messages"} 0',
        'headgate_log_dropped_total{process="worker",log="access"} 0',
        'headgate_log_dropped_total{process="worker",log="messages"} 0',
    ]


@SHARED_LOOP
async def test_a_scrape_is_compressed_for_who_takes_it(usual: Gateway) -> None:
    for accept, is_small in (
        ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False),
        ("", False),
    ):  # fmt: skip
        headers = [("Accept-Encoding", accept)]
        scrape = await usual.client.get(f"{usual.admin_url}/metrics", headers=headers)
        said = {name.lower(): value for name, value in scrape.headers}
        assert said["vary"] == "Accept, Accept-Encoding"
        assert said.get("content-encoding") == ("gzip" if is_small else None)
        body = gzip.decompress(scrape.body) if is_small else scrape.body
        assert body.startswith(b"# HELP headgate_")
        assert b"headgate_revision" in body


def entry(ident: bytes, target: bytes = b"/x") -> Entry:
    place = members(("r", "b", "127.0.0.1:1"))
    return (5.0, ident, b"c", b"GET", target, 200, "", place, b"", 1, 1, 0, 2, 0.5)


def test_a_log_of_every_request_says_nothing_of_sampling() -> None:
    (line,) = AccessLog("off").lines([entry(b"a")], 0.0).splitlines()
    assert "sample_percent" not in json.loads(line)


def test_the_line_in_the_documentation_has_the_members_of_a_line() -> None:
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    log = AccessLog("off")
    (line,) = log.lines([entry(b"a")], 0.0).splitlines()
    assert list(shown) == list(json.loads(line))


def test_a_batch_with_nothing_to_write_writes_nothing(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), Sampling(0.5))
    log.write([entry(b"a", b"/-/health")])
    log.close()
    assert (tmp_path / "log").read_bytes() == b""
