"""R55: an acknowledged edit decides every request that comes after it."""

import asyncio
import math
import time
from collections import Counter, defaultdict

import pytest

from tests.harness.gateway import backend, running_gateway
from tests.harness.load import failures, get_each, open_loop, percentile
from tests.harness.origins import after, origins
from tests.harness.stretch import Stretch

EVEN, ONE = {"a": 50, "b": 50}, {"a": 100, "b": 0}


async def _flips(seconds: float, workers: int, rate: float, *, judged: float) -> None:
    """`judged`: which percentile of the edits has to be quick."""
    async with origins(2, after(0.005)) as (a, b):
        document = {
            "backends": {"a": backend(a), "b": backend(b)},
            "routes": {"r": {"match": "/", "split": EVEN}},
        }
        async with running_gateway(document, workers=workers) as gateway, Stretch() as work:
            load = asyncio.create_task(open_loop(gateway.url, rate, seconds, get_each, timeout=60))
            spans: list[tuple[float, float]] = []
            revisions: dict[int, dict[str, int]] = {1: EVEN}
            edits: list[tuple[float, float]] = []

            async def edited(weights: dict[str, int]) -> float:
                asked = time.monotonic()
                revisions[(await gateway.set_weights("r", weights))["revision"]] = weights
                edits.append((asked, acked := time.monotonic()))
                return acked

            end = time.monotonic() + seconds - 0.5
            while time.monotonic() < end:
                acked = await edited(ONE)
                await asyncio.sleep(0.1)
                spans.append((acked, time.monotonic()))
                await edited(EVEN)
                await asyncio.sleep(0.1)
            replies = await load
    assert failures(replies) == []
    by_revision: dict[int, Counter[str]] = defaultdict(Counter)
    for reply in replies:
        by_revision[int(reply.header("x-headgate-revision"))][
            reply.header("x-headgate-backend")
        ] += 1
    assert set(by_revision) <= set(revisions), "each a real one"
    for revision, counts in by_revision.items():
        sent, share = counts.total(), revisions[revision]["a"] / 100
        assert abs(counts["a"] - share * sent) <= 4 * math.sqrt(sent * share * (1 - share)), counts
    wrong = [
        r.id
        for r in replies
        if r.header("x-headgate-backend") == "b"
        and any(acked <= r.intended and r.done <= end for acked, end in spans)
    ]
    assert wrong == []
    stretch = work.between(edits[0][0], edits[-1][1])
    took = sorted(acked - asked for asked, acked in edits)
    assert percentile(took, judged) <= 0.02 * stretch, (took, stretch)
    during = [r.took_s for r in replies if any(a <= r.intended < b for a, b in edits)]
    apart = [r.took_s for r in replies if not any(a <= r.intended < b for a, b in edits)]
    assert not during or percentile(during, 50) <= 2 * percentile(apart, 50) + 0.005


async def test_r55_after_the_acknowledgement_no_request_is_decided_by_the_old_weights() -> None:
    # The machine is shared: the middle says what an edit costs, the far end what the others do.
    await _flips(6, workers=2, rate=100, judged=50)


@pytest.mark.soak
async def test_r55_a_minute_of_flips() -> None:
    await _flips(60, workers=2, rate=200, judged=99)
