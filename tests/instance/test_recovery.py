"""After a flood, and when half of an instance stops: R40, R46."""

import asyncio
import signal

import pytest

from tests.instance.conftest import Serve
from tests.instance.loads import paced

pytestmark = pytest.mark.alone  # goodput

# Four of 50 ms each at a time, by a clock and not by the processor: 80 a second and worker.
SLOTS = """
    import time
    class Model:
        max_batch_size = 4
        def setup(self, device): ...
        def predict(self, batch):
            time.sleep(0.05)
            return batch
"""
EACH = 80.0


async def test_r40_after_a_flood_of_clients_that_retry_all_is_normal_at_once(serve: Serve) -> None:
    instance = serve(SLOTS)
    flood = await paced(instance, 3 * EACH, 4.0, deadline_s=0.5, tries=3)
    assert sum(status == 503 for _, status, _ in flood) > len(flood) / 3
    await asyncio.sleep(1)
    after = await paced(instance, 0.7 * EACH, 4.0, deadline_s=0.5)
    good = [took for _, status, took in after if status == 200]
    assert len(good) >= 0.99 * len(after)
    assert sorted(good)[len(good) // 2] <= 0.3
    assert instance.metric("instance_queue_depth") == 0


async def test_r46_goodput_follows_the_workers_that_are_left(serve: Serve) -> None:
    instance = serve(SLOTS, "Model", "--workers", "2")
    stopped = instance.workers()[1]
    load = asyncio.create_task(paced(instance, 1.5 * EACH, 8.0, deadline_s=0.5))
    await asyncio.sleep(2)
    stopped.send_signal(signal.SIGSTOP)
    try:
        seen = await load
        # A batch takes 50 ms, and on a busy machine a little longer.
        predict_s = instance.metric("instance_predict_seconds_sum") / instance.metric(
            "instance_predict_seconds_count"
        )
    finally:
        stopped.send_signal(signal.SIGCONT)
    good = [due for due, status, took in seen if status == 200 and took <= 0.6]
    before = sum(0.5 <= due < 2 for due in good)
    after = sum(5 <= due < 8 for due in good)
    assert before >= 0.9 * 1.5 * EACH * 1.5  # both together had room for all of it
    assert after >= 0.9 * 4 / predict_s * 3
    assert instance.metric("instance_worker_restarts_total") == 0  # slower, not replaced
