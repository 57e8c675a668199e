"""The next batch is prepared while this one is computed, where a model wants that."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from instance.model.preparing import HookLock
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import holding, raw

# Every answer says when its hooks ran; sleeping stands for a device and for native decoders.
TIMED = """
    import time
    from pathlib import Path

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
            while Path("hold").exists():
                time.sleep(0.005)
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
    """The answers to `bodies`, all asked at once, in their order: none is computed before all are
    there. One that cannot be decoded may have failed by then."""
    failed = 'instance_requests_total{code="500"}'
    with ThreadPoolExecutor(len(bodies)) as pool:
        with holding(instance):
            answers = [pool.submit(instance.post, body) for body in bodies]
            eventually(lambda: present(instance) + instance.metric(failed) == len(bodies))
        return [answer.result() for answer in answers]


def present(instance: Instance) -> float:
    return instance.metric("instance_running") + instance.metric("instance_queue_depth")


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
        "began = time.monotonic()\n",
        "began = time.monotonic()\n"
        "            os.write(2, f\"{[one['n'] for one in x]}\\n\".encode())\n",
        1,
    ).replace("import time", "import os, time", 1)
    instance = serve(source)
    with ThreadPoolExecutor(4) as pool:
        with holding(instance):
            asked = [pool.submit(instance.post, {"n": 0})]
            instance.wait_for(r"^\[0\]$")
            # Four more are a full batch, and wait in the worker for the one that it computes.
            asked += [pool.submit(instance.post, {"n": n}) for n in (1, 3)]
            leaving = raw(instance, b'{"n": 4}')
            eventually(lambda: present(instance) == 4)
            late = instance.post({"n": 2}, headers={"X-Headgate-Timeout-Ms": "300"})
            leaving.close()
            eventually(lambda: instance.metric('instance_requests_total{code="499"}') == 1)
        answers = [one.result() for one in asked]
    assert late.status_code == 504
    assert [answer.status_code for answer in answers] == [200] * 3
    seen = instance.wait_for(r"^\[[13], [13]\]$")
    assert sorted(json.loads(seen[0])) == [1, 3]
    assert answers[1].json()["made_by"] == 2


def test_a_lone_request_is_answered_at_once_and_checks_and_stop_still_work(serve: Serve) -> None:
    instance = serve(
        TIMED + "        def health(self):\n            return True\n"
        "        def teardown(self):\n            import sys; print('torn', file=sys.stderr)\n"
    )
    took = []
    for _ in range(5):  # one of which may meet a pause of the machine
        began = time.monotonic()
        assert instance.post({"predict": 0, "decode": 0}).status_code == 200
        took.append(time.monotonic() - began)
    assert min(took) < 0.5, took
    assert eventually(lambda: instance.get("/health/ready").status_code == 200)
    assert instance.terminate() == 0
    instance.wait_for("torn")


def test_a_worker_that_dies_fails_one_batch_and_the_prepared_one_waits_again(serve: Serve) -> None:
    source = TIMED.replace(
        'if any(one.get("breaks") for one in x):',
        "if any(one.get('dies') for one in x):\n                time.sleep(0.2); os._exit(3)\n"
        "            if False:",
    ).replace(
        "return request", "Path(f\"decoded {request['n']}\").touch()\n            return request"
    )
    instance = serve(source.replace("import time", "import os, time", 1))
    with ThreadPoolExecutor(5) as pool:
        with holding(instance):
            first = pool.submit(instance.post, {"n": 0, "dies": 1})
            assert eventually(lambda: instance.metric("instance_running") == 1)
            others = [pool.submit(instance.post, {"n": n}) for n in range(1, 5)]
            # One whose decoding has begun cannot be run again.
            eventually(lambda: len(list(instance.cwd.glob("decoded *"))) == 5)
        assert first.result().status_code == 500
        assert [other.result().status_code for other in others] == [200] * 4


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
