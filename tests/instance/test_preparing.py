"""The next batch is prepared while this one is computed, where a model wants that."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from instance.model.preparing import HookLock
from tests.instance.conftest import Instance, Serve, eventually

# Every answer says when its hooks ran; sleeping stands for a device and for native decoders.
TIMED = """
    import time

    class Model:
        decode_ahead = True
        max_batch_size = 4
        def setup(self, device): ...

        def decode_request(self, request, context):
            context["decode"] = [time.monotonic()]
            time.sleep(request.get("decode", 0.01))
            context["decode"].append(time.monotonic())
            if request.get("bad"):
                raise ValueError("cannot be decoded")
            return request

        def batch(self, inputs, context):
            for one in context:
                one["made_by"] = len(inputs)
            return inputs

        def predict(self, x, context):
            began = time.monotonic()
            time.sleep(max(one.get("predict", 0.05) for one in x))
            for one in context:
                one["predict"] = [began, time.monotonic()]
            if any(one.get("breaks") for one in x):
                raise ValueError("cannot be computed")
            return x

        def encode_response(self, output, context):
            began = time.monotonic()
            time.sleep(0.005)
            context["encode"] = [began, time.monotonic()]
            return {"n": output.get("n"), **context}
"""


def ask_all(instance: Instance, bodies: list[dict]) -> list:
    """The answers to `bodies`, all asked at once, in their order."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(instance.post, bodies))


def beside(one: list[float], other: list[float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_requests_are_decoded_while_the_batch_before_is_computed(serve: Serve) -> None:
    instance = serve(TIMED)
    answers = [a.json() for a in ask_all(instance, [{"n": n} for n in range(24)])]
    assert [answer["n"] for answer in answers] == list(range(24))
    assert any(
        beside(one["decode"], other["predict"])
        for one in answers
        for other in answers
        if one["n"] != other["n"]
    )
    for one in answers:
        for other in answers:
            assert not beside(one["decode"], other["encode"])
            assert one["n"] == other["n"] or not beside(one["encode"], other["encode"])


def test_two_workers_both_prepare_while_enough_is_left_for_each(serve: Serve) -> None:
    source = TIMED.replace(
        'context["encode"] =', 'context["pid"] = os.getpid()\n            context["encode"] ='
    )
    instance = serve(source.replace("import time", "import os, time", 1), "Model", "--workers", "2")
    # While the first batches are computed all others come, however busy the machine is.
    answers = [a.json() for a in ask_all(instance, [{"n": n, "predict": 0.3} for n in range(32)])]
    assert [answer["n"] for answer in answers] == list(range(32))
    ahead = {
        one["pid"]
        for one in answers
        for other in answers
        if one["pid"] == other["pid"] and beside(one["decode"], other["predict"])
    }
    assert len(ahead) == 2


def test_without_it_one_hook_runs_at_a_time(serve: Serve) -> None:
    instance = serve(TIMED.replace("decode_ahead = True", "pass"), "Model", "--device", "cpu")
    answers = [a.json() for a in ask_all(instance, [{"n": n} for n in range(16)])]
    assert not any(beside(a["decode"], b["predict"]) for a in answers for b in answers)


def test_a_bad_item_of_a_prepared_batch_fails_alone(serve: Serve) -> None:
    instance = serve(TIMED)
    bodies: list[dict] = [{"n": n} for n in range(16)]
    bodies[5]["bad"] = bodies[6]["breaks"] = bodies[9]["bad"] = True
    answers = ask_all(instance, bodies)
    assert [n for n, answer in enumerate(answers) if answer.status_code == 500] == [5, 6, 9]
    assert all(a.json()["n"] == n for n, a in enumerate(answers) if a.status_code == 200)


def test_who_leaves_or_expires_after_the_batch_was_formed_is_not_computed(serve: Serve) -> None:
    source = TIMED.replace(
        "began = time.monotonic()\n            time.sleep(max",
        "began = time.monotonic()\n            print([one['n'] for one in x], file=sys.stderr,"
        " flush=True)\n            time.sleep(max",
    ).replace("import time", "import sys, time", 1)
    instance = serve(source)
    # One computes for a second; four more are a full batch, and wait for it in the worker.
    first = threading.Thread(target=instance.post, args=({"n": 0, "predict": 1.0},))
    first.start()
    instance.wait_for(r"^\[0\]$")
    late = [(1, {}), (2, {"headers": {"X-Headgate-Timeout-Ms": "300"}}), (3, {}), (4, {})]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(instance.post, {"n": n}, **more) for n, more in late[:3]]
        leaving = instance.client()
        gone = pool.submit(lambda: leaving.post("/predict", json={"n": 4}, timeout=0.4))
        assert gone.exception() is not None
        leaving.close()
        answers = [one.result() for one in asked]
    first.join()
    assert [answer.status_code for answer in answers] == [200, 504, 200]
    seen = instance.wait_for(r"^\[[13], [13]\]$")
    assert sorted(json.loads(seen[0])) == [1, 3]
    assert answers[0].json()["made_by"] == 2


@pytest.mark.paced
def test_a_lone_request_is_answered_at_once_and_checks_and_stop_still_work(serve: Serve) -> None:
    instance = serve(
        TIMED + "        def health(self):\n            return True\n"
        "        def teardown(self):\n            import sys; print('torn', file=sys.stderr)\n"
    )
    began = time.monotonic()
    assert instance.post({"predict": 0, "decode": 0}).status_code == 200
    assert time.monotonic() - began < 0.5
    assert eventually(lambda: instance.get("/health/ready").status_code == 200)
    assert instance.terminate() == 0
    instance.wait_for("torn")


def test_a_worker_that_dies_fails_one_batch_and_the_prepared_one_waits_again(serve: Serve) -> None:
    source = TIMED.replace(
        'if any(one.get("breaks") for one in x):',
        "if any(one.get('dies') for one in x):\n                import os; os._exit(3)\n"
        "            if False:",
    )
    instance = serve(source)
    first = threading.Thread(target=instance.post, args=({"n": 0, "predict": 0.3, "dies": 1},))
    first.start()
    assert eventually(lambda: instance.metric("instance_running") == 1)
    answers = ask_all(instance, [{"n": n} for n in range(4)])
    first.join()
    assert [answer.status_code for answer in answers] == [200] * 4


def test_the_thread_that_computes_has_the_next_turn_when_it_waits() -> None:
    turns, order = HookLock(), []
    inside, go = threading.Event(), threading.Event()

    def prepare() -> None:
        with turns:
            inside.set()
            go.wait()
            order.append("first item")
        with turns:
            order.append("second item")

    def compute() -> None:
        with turns:
            order.append("answers")

    threads = [threading.Thread(target=prepare), threading.Thread(target=compute)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    while not turns.is_awaited:  # who computes does not wait yet
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert order == ["first item", "answers", "second item"]
