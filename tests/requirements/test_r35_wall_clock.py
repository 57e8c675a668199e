"""R35: a wall clock that jumps is nobody's business but the log's."""

from pathlib import Path

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import origins

DAY_S = 86_400
# The whole machine's clock is not ours to set: every process of the gateway reads its wall clock
# through this instead, the monotonic clock stays as it is.
SITE = """
import os, time
_real, _file = time.time, os.environ["HEADGATE_TEST_CLOCK"]
def _offset():
    try:
        with open(_file) as source:
            return float(source.read() or 0)
    except (OSError, ValueError):
        return 0.0
time.time = lambda: _real() + _offset()
time.time_ns = lambda: int(time.time() * 1e9)
"""


async def test_r35_a_jumping_wall_clock_fails_no_request_and_ejects_nobody(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    clock = tmp_path / "offset"
    clock.write_text("0")
    env = {"PYTHONPATH": str(tmp_path), "HEADGATE_TEST_CLOCK": str(clock)}
    async with origins(2) as stubs:
        async with running_gateway(one_backend(*stubs), env=env) as gateway:
            replies = []
            for days in (0, 400, -30, 0):
                clock.write_text(str(days * DAY_S))
                replies += await open_loop(gateway.url, 50, 1.5, lambda n: Ask(path=f"/{n}"))
                await gateway.set_weights("all", {"main": 1 + abs(days)})
            metrics = await gateway.metrics()
            history = (await gateway.admin("GET", "/admin/v1/history")).json()
    assert failures(replies) == []
    assert metrics.total("headgate_ejections_total") == 0
    assert metrics.total("headgate_instance_up") == 2
    entries = history if isinstance(history, list) else next(
        value for value in history.values() if isinstance(value, list)
    )  # fmt: skip
    revisions = [entry["revision"] for entry in entries]
    assert revisions in (sorted(revisions), sorted(revisions, reverse=True))
