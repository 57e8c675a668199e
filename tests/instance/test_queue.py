"""Places, deadlines, windows and overload, through a real instance."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.instance.conftest import Serve, eventually
from tests.instance.loads import MODEL, holding, later, many, ran, raw, together

BATCHED = """
    import pathlib, time

    class Batched:
        max_batch_size = 8
        def setup(self, device): ...
        def predict(self, batch):
            while pathlib.Path("hold").exists():
                time.sleep(0.005)
            return batch
"""


def at_once(ask: Callable[[], httpx.Response]) -> tuple[float, httpx.Response]:
    """How long the quickest of five takes, and the last answer: who would have to wait for others
    would do so each time, and others may meet a pause of the machine."""
    took = []
    for _ in range(5):
        started = time.monotonic()
        answer = ask()
        took.append(time.monotonic() - started)
    return min(took), answer


@pytest.mark.paced
def test_r42_expired_requests_are_answered_at_their_deadline_and_never_run(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(MODEL, "Slow")
    headers, took = {"X-Headgate-Timeout-Ms": "200"}, []
    with holding(instance):
        first = later(lambda: instance.post({"id": "first", "held": 1}))
        eventually(lambda: ran(tmp_path) == ["first"])
        second = later(lambda: instance.post({"id": "ahead"}))
        eventually(lambda: instance.metric("instance_queue_depth") == 1)
        for _ in range(5):  # one of which may meet a pause of the machine
            started = time.monotonic()
            answers = together([lambda: instance.post({"id": "late"}, headers=headers)] * 5)
            took.append(time.monotonic() - started)
            assert {(a.status_code, a.json()["code"]) for a in answers} == {(504, "deadline")}
    assert 0.15 < min(took) < 0.6, took
    assert first().json() == "first"
    assert second().json() == "ahead"
    assert "late" not in ran(tmp_path)
    assert instance.post({"id": "after", "s": 0}).json() == "after"
    past = instance.post({"id": "past"}, headers={"X-Headgate-Timeout-Ms": "0"})
    assert past.status_code == 504
    assert instance.post({}, headers={"X-Headgate-Timeout-Ms": "soon"}).status_code == 400
    assert ran(tmp_path) == ["first", "ahead", "after"]


@pytest.mark.paced
def test_r42_a_request_whose_wait_exceeds_its_deadline_is_refused_at_once(serve: Serve) -> None:
    instance = serve(MODEL, "Slow")
    for _ in range(3):
        instance.post({"id": "teach", "s": 0.2})
    with holding(instance):
        waiting = [later(lambda: instance.post({"id": "x", "held": 1})) for _ in range(6)]
        eventually(lambda: instance.metric("instance_queue_depth") == 5)
        took, answer = at_once(
            lambda: instance.post({"id": "no"}, headers={"X-Headgate-Timeout-Ms": "300"})
        )
    assert took < 0.1
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert all(wait().status_code == 200 for wait in waiting)


@pytest.mark.paced
def test_r43_clients_that_leave_free_their_place_before_the_batch_forms(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(MODEL, "Slow", "--max-queue", "3")
    took = []
    with holding(instance):
        busy = [later(lambda: instance.post({"id": "busy", "held": 1})) for _ in range(2)]
        eventually(lambda: instance.metric("instance_queue_depth") == 1)
        for _ in range(5):  # one of which may meet a pause of the machine
            leaving = [raw(instance, b'{"id": "gone"}') for _ in range(3)]
            eventually(lambda: instance.metric("instance_queue_depth") == 4)
            assert instance.post({"id": "full"}).status_code == 503
            for sock in leaving:
                sock.close()
            started = time.monotonic()
            eventually(lambda: instance.metric("instance_queue_depth") == 1)
            took.append(time.monotonic() - started)
    assert min(took) < 0.2, took
    assert instance.post({"id": "after"}).json() == "after"
    assert all(wait().status_code == 200 for wait in busy)
    assert "gone" not in ran(tmp_path)
    assert instance.metric('instance_requests_total{code="499"}') == 15


def test_r43_an_async_predict_is_cancelled_when_its_client_leaves(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(MODEL, "AsyncSlow")
    sock = raw(instance, b'{"id": "gone", "s": 60}')
    eventually(lambda: ran(tmp_path) == ["gone"])
    sock.close()
    eventually(lambda: instance.metric("instance_running") == 0)
    assert instance.post({"id": "next", "s": 0.01}).json() == "next"
    assert (tmp_path / "done").read_text().split() == ["next"]


def test_r43_a_client_that_leaves_before_its_async_predict_began_frees_its_place(
    serve: Serve,
) -> None:
    instance = serve("""
        import pathlib, time
        class Model:
            def setup(self, device): ...
            async def predict(self, x):
                while pathlib.Path("hold").exists():  # and the loop: what comes is read at once
                    time.sleep(0.005)
                return x
    """)
    with holding(instance):
        first = later(lambda: instance.post(1))
        eventually(lambda: instance.metric("instance_running") == 1)
        sock = raw(instance, b"2")
        eventually(lambda: instance.metric("instance_running") == 2)
        sock.close()
        eventually(lambda: instance.metric('instance_requests_total{code="499"}') == 1)
    assert first().json() == 1
    eventually(lambda: instance.metric("instance_running") == 0)


def test_an_async_model_answers_many_at_once(serve: Serve) -> None:
    instance = serve("""
        import asyncio
        class Model:
            def setup(self, device):
                self.here, self.all_here = 0, asyncio.Event()
            async def predict(self, x):
                self.here += 1
                if self.here == x:
                    self.all_here.set()
                await self.all_here.wait()
                return x
    """)
    answers = together([lambda: instance.post(16)] * 16)
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.paced
def test_r45_beyond_the_queue_it_is_503_at_once_with_retry_after(serve: Serve) -> None:
    instance = serve(MODEL, "Slow", "--max-queue", "2")
    for _ in range(5):  # one of which may meet a pause of the machine
        instance.post({"id": "teach", "s": 0.1})
    with holding(instance):
        waiting = [later(lambda: instance.post({"id": "x", "held": 1})) for _ in range(4)]
        eventually(lambda: instance.metric("instance_queue_depth") == 3)
        took, answer = at_once(lambda: instance.post({"id": "no"}))
        assert instance.get("/health").status_code == 200
    assert took < 0.1
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert all(wait().status_code == 200 for wait in waiting)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
async def test_r47_mixed_shapes_in_random_batches_are_each_answered_with_their_own(
    serve: Serve, count: int
) -> None:
    instance = serve(MODEL, "Shapes")
    chance = random.Random(7)
    bodies = [{"x": [i] * chance.randint(1, 3)} for i in range(count)]
    results = await many(instance, bodies, 32)
    for body, (status, answer) in zip(bodies, results, strict=True):
        assert (status, answer) == (200, 2.0 * sum(body["x"]))
    assert instance.metric("instance_batch_size_count") < count


def test_who_is_answered_together_is_not_said_to_be_computed_still(serve: Serve) -> None:
    """A gateway takes them out of what it has here one by one, and would take them for others'."""
    instance = serve(BATCHED, "Batched")
    with holding(instance):
        first = later(lambda: instance.post({"id": 0}))
        eventually(lambda: instance.metric("instance_running") == 1)
        calls = [later(lambda: instance.post({"id": 1})) for _ in range(4)]
        eventually(lambda: instance.metric("instance_queue_depth") == 4)
    first()
    reports = [call().headers["endpoint-load-metrics"].removeprefix("JSON ") for call in calls]
    said = [json.loads(report)["named_metrics"] for report in reports]
    assert {(each["queue"], each["running"]) for each in said} == {(0, 1)}


def test_two_workers_compute_at_the_same_time(serve: Serve) -> None:
    instance = serve(MODEL, "Slow", "--workers", "2")
    report = instance.get("/health").headers["endpoint-load-metrics"].removeprefix("JSON ")
    assert json.loads(report)["named_metrics"]["slots"] == 2
    with holding(instance):
        calls = [later(lambda: instance.post({"id": 1, "held": 1})) for _ in range(2)]
        eventually(lambda: instance.metric("instance_running") == 2)
    assert all(call().status_code == 200 for call in calls)


def test_what_a_worker_that_takes_long_computes_is_counted_as_running(serve: Serve) -> None:
    source = """
        import pathlib, time
        class Model:
            def setup(self, device): ...
            def predict(self, x):
                while x == "long" and not pathlib.Path("end").exists():
                    time.sleep(0.01)
                return x
    """
    instance = serve(source, "Model", "--workers", "2")
    for _ in range(3):
        instance.post("short")
    long = later(lambda: instance.post("long"))
    # It is not counted on any more, and computes all the same.
    load = "endpoint-load-metrics"
    eventually(lambda: '"slots": 1' in instance.get("/health").headers[load])
    assert instance.metric("instance_running") == 1
    assert instance.metric("instance_queue_depth") == 0
    (instance.cwd / "end").touch()
    assert long().json() == "long"


@pytest.mark.alone
async def test_r39_at_three_times_capacity_the_goodput_stays(serve: Serve) -> None:
    """80 requests/s can be computed, 240/s come, each with 500 ms of patience."""
    instance = serve(
        """
        import time
        class Model:
            max_batch_size = 4
            def setup(self, device): ...
            def predict(self, batch):
                time.sleep(0.05)
                return batch
        """
    )
    seconds, rate, deadline_s = 4.0, 240, 0.5
    good, refused = [], []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(instance.url, connector=connector) as session:

        async def one() -> None:
            started = time.monotonic()
            headers = {"X-Headgate-Timeout-Ms": str(int(deadline_s * 1000))}
            async with session.post("/predict", json=1, headers=headers) as answer:
                await answer.read()
                took = time.monotonic() - started
                if answer.status == 200 and took <= deadline_s + 0.05:
                    good.append(took)
                elif answer.status == 503:
                    refused.append(took)
                    assert int(answer.headers["Retry-After"]) >= 1

        async with asyncio.TaskGroup() as tasks:
            started = time.monotonic()
            for i in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, started + i / rate - time.monotonic()))
                tasks.create_task(one())
            took = time.monotonic() - started
    computed = instance.metric("instance_batch_size_sum")
    assert len(good) >= 0.95 * computed  # hardly anything was computed for nobody …
    assert computed / instance.metric("instance_batch_size_count") > 3.5  # … in full batches …
    assert instance.metric("instance_predict_seconds_sum") > 0.8 * took  # … all the time
    assert len(refused) > len(good)
    assert sorted(refused)[len(refused) // 2] < 0.05


@pytest.mark.alone
async def test_a_target_latency_keeps_batches_as_small_as_it_needs(serve: Serve) -> None:
    instance = serve(MODEL, "Paced", "--target-latency", "12ms")
    await many(instance, [1] * 600, 32)
    sizes = [answer for _, answer in await many(instance, [1] * 200, 32)]
    assert 2 <= sorted(sizes)[100] <= 6


def test_a_lone_request_does_not_wait_for_the_window(serve: Serve) -> None:
    instance = serve(MODEL, "Shapes", "--batch-timeout", "500ms")
    with instance.client() as client:
        client.post("/predict", json={"x": [1]})
        started = time.perf_counter()
        for _ in range(10):
            client.post("/predict", json={"x": [1]})
    assert time.perf_counter() - started < 10 * 0.5


def test_r42_an_idle_worker_lets_no_deadline_pass_for_company(serve: Serve) -> None:
    instance = serve(BATCHED, "Batched", "--batch-timeout", "30s")
    headers = {"X-Headgate-Timeout-Ms": "10000"}
    with holding(instance):
        first = later(lambda: instance.post(1))
        eventually(lambda: instance.metric("instance_running") == 1)
        others = [later(lambda: instance.post(2, headers=headers)) for _ in range(2)]
        eventually(lambda: instance.metric("instance_queue_depth") == 2)
    assert first().json() == 1
    # Three were present at one time, and two are here: a third may come, as long as there is time.
    assert [other().json() for other in others] == [2, 2]


@pytest.mark.paced
@pytest.mark.parametrize("name", ["Slow", "Streams"])
def test_r42_what_is_computed_at_its_deadline_is_answered_then_and_keeps_its_place(
    serve: Serve, tmp_path: Path, name: str
) -> None:
    instance = serve(MODEL, name)
    took = []
    with instance.client() as client:
        for _ in range(5):  # one of which may meet a pause of the machine
            with holding(instance):
                started = time.monotonic()
                late = client.post(
                    "/predict",
                    json={"id": "late", "held": 1},
                    headers={"X-Headgate-Timeout-Ms": "200"},
                )
                took.append(time.monotonic() - started)
                assert (late.status_code, late.json()["code"]) == (504, "deadline")
                assert instance.metric("instance_running") == 1  # still
                waiting = later(lambda: instance.post({"id": "next"}))
                eventually(lambda: instance.metric("instance_queue_depth") == 1)
            assert waiting().text.strip('"') == "next"
        # What came of it is nobody's, on this connection least of all.
        assert client.post("/predict", json={"id": "after"}).text.strip('"') == "after"
    assert 0.15 < min(took) < 0.6, took
    assert ran(tmp_path) == [*["late", "next"] * 5, "after"]
    assert instance.metric('instance_requests_total{code="504"}') == 5


def test_r42_an_async_predict_is_cancelled_at_its_deadline(serve: Serve, tmp_path: Path) -> None:
    instance = serve(MODEL, "AsyncSlow")
    late = instance.post({"id": "late", "s": 60}, headers={"X-Headgate-Timeout-Ms": "200"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline")
    eventually(lambda: instance.metric("instance_running") == 0)
    assert instance.post({"id": "next", "s": 0.01}).json() == "next"
    assert (tmp_path / "done").read_text().split() == ["next"]


def test_r42_one_of_a_batch_that_is_late_leaves_the_others_theirs(serve: Serve) -> None:
    source = BATCHED.replace('Path("hold")', 'Path("hold" if len(batch) == 1 else "held")')
    instance = serve(source, "Batched")
    held = instance.cwd / "held"
    held.touch()
    with holding(instance):
        first = later(lambda: instance.post(1))
        eventually(lambda: instance.metric("instance_running") == 1)
        others = [later(lambda: instance.post(2)) for _ in range(2)]
        late = later(lambda: instance.post(3, headers={"X-Headgate-Timeout-Ms": "3000"}))
        eventually(lambda: instance.metric("instance_queue_depth") == 3)
    assert first().json() == 1
    assert late().status_code == 504
    assert instance.metric("instance_running") == 3
    held.unlink()
    assert [other().json() for other in others] == [2, 2]


def test_r42_a_stream_that_has_begun_goes_on_beyond_its_deadline(serve: Serve) -> None:
    instance = serve(MODEL, "Streams")
    headers = {"X-Headgate-Timeout-Ms": "200"}
    with instance.client() as client:
        body = {"id": "a", "then": "b"}
        with client.stream("POST", "/predict", json=body, headers=headers) as answer:
            parts = answer.iter_text()
            assert next(parts) == "a"
            assert instance.post({"id": "behind"}, headers=headers).status_code == 504
            (instance.cwd / "go").touch()
            assert "".join(parts) == "b"
