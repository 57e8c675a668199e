"""Callbacks, loggers and limits that come with a class, as LitServe's users write them."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import Serve, eventually

OWN = """
    import os
    from instance import ModelAPI

    def say(*words):  # in one piece: the loggers have a thread of their own
        os.write(2, f"said {' '.join(map(str, words))}\\n".encode())

    class Tells:
        def __getattr__(self, name):
            if not name.startswith("on_"):
                raise AttributeError(name)
            return lambda lit_api: say(name)

    class Breaks:
        def on_before_predict(self, lit_api):
            raise ValueError("a callback")

    class Keeps:
        def process(self, key, value):
            if key == "bad":
                raise ValueError("a logger")
            say(key, value)

    class Model(ModelAPI):
        callbacks = [Breaks(), Tells()]
        loggers = Keeps()
        def setup(self, device):
            say("setup")
        def decode_request(self, request):
            return request
        def predict(self, x):
            say("predict")
            self.log("bad", x)
            self.log("x", x)
            return x
        def encode_response(self, output):
            return output

    class Stream(Model):
        stream = True
        def predict(self, x):
            yield "a"
            yield "b"
        def encode_response(self, output):
            for item in output:
                say(item)
                yield item

    class Async(Model):
        async def predict(self, x):
            say("predict")
            return x

    class AsyncStream(Async):
        stream = True
        async def predict(self, x):
            yield "a"
            yield "b"
        async def encode_response(self, output):
            async for item in output:
                say(item)
                yield item

    class Bare:
        callbacks = Tells()
        def setup(self, device): ...
        def predict(self, x):
            return x

    class BareEmbeddings(Bare):
        spec = "openai-embeddings"
        def predict(self, inputs):
            return [[float(len(one))] for one in inputs]

    class Quiet(Model):
        callbacks = ()
        loggers = ()
"""


def said(log: list[str]) -> list[str]:
    return [line.removeprefix("said ").strip() for line in log if line.startswith("said ")]


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("Model", ["predict", "on_after_predict", "on_before_encode_response"]),
        ("Async", ["predict", "on_after_predict", "on_before_encode_response"]),
        ("Stream", ["a", "b", "on_after_predict"]),
        ("AsyncStream", ["a", "b", "on_after_predict"]),
    ],
)
def test_callbacks_are_called_around_each_hook(serve: Serve, name: str, inside: list[str]) -> None:
    instance = serve(OWN, name)
    assert instance.post(7).status_code == 200
    instance.wait_for("on_after_encode_response")
    seen = [line for line in said(instance.log) if not line.startswith("x ")]
    assert seen[:3] == ["on_before_setup", "setup", "on_after_setup"]
    assert seen[3:5] == ["on_before_decode_request", "on_after_decode_request"]
    told = iter(seen[5:])
    assert all(word in told for word in inside)  # in this order
    assert seen[-1] == "on_after_encode_response"
    instance.wait_for("on_before_predict of Breaks raised")


@pytest.mark.parametrize(
    ("name", "path", "asked"),
    [("Bare", "/predict", 7), ("BareEmbeddings", "/v1/embeddings", {"input": ["ab", "c"]})],
)
def test_callbacks_are_called_around_hooks_that_a_class_leaves_out(
    serve: Serve, name: str, path: str, asked: object
) -> None:
    instance = serve(OWN, name)
    assert instance.post(asked, path=path).status_code == 200
    instance.wait_for("on_after_encode_response")
    moments = ("setup", "decode_request", "predict", "encode_response")
    told = [f"on_{when}_{moment}" for moment in moments for when in ("before", "after")]
    assert said(instance.log) == told


def test_what_a_model_logs_reaches_its_loggers_or_the_log(serve: Serve) -> None:
    instance = serve(OWN)
    assert instance.post(7).json() == 7
    instance.wait_for("^said x 7$")
    instance.wait_for("Keeps could not process 'bad'")
    quiet = serve(OWN, "Quiet")
    for _ in range(30):
        assert quiet.post(7).json() == 7
    quiet.wait_for(r"'x': 7.*instance\.model")
    assert sum("'x': 7" in line for line in quiet.log) <= 30


def test_a_class_may_limit_how_long_requests_wait(serve: Serve) -> None:
    instance = serve(
        """
        import time
        from pathlib import Path
        class Model:
            request_timeout = 0.3
            def setup(self, device): ...
            def predict(self, x):
                while Path("hold").exists():
                    time.sleep(0.01)
        """
    )
    hold = instance.cwd / "hold"
    hold.touch()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(instance.post, 1)
        assert eventually(lambda: instance.metric("instance_running") == 1)
        began = time.monotonic()
        second = pool.submit(instance.post, 2).result()
        waited = time.monotonic() - began
        assert not first.done(), "it was answered before its turn came"
        hold.unlink()
        assert first.result().status_code == 200  # the limit is on the wait, not on the work
    assert second.status_code == 504
    assert second.json()["code"] == "deadline"
    assert waited > 0.2


LITSERVE = """
    import os
    import litserve as ls
    from litserve.callbacks import Callback

    def say(*words):  # in one piece: two processes write here, one of them with two threads
        os.write(2, f"{' '.join(map(str, words))}\\n".encode())

    class Timer(Callback):
        def on_before_predict(self, lit_api):
            say("before", type(lit_api).__name__, lit_api.device)
        def on_request(self, *args, **kwargs):
            say("a request came")

    class Prints(ls.Logger):
        def __init__(self):
            super().__init__()
            self.mount("/prometheus", None)
        def process(self, key, value):
            say("logged", key, value)

    class Model(ls.LitAPI):
        callbacks = [Timer()]
        loggers = [Prints()]
        request_timeout = -1
        def pre_setup(self, spec=None):
            super().pre_setup(spec)
            self.prepared = 1
        def setup(self, device):
            self.prepared += 1
        def predict(self, x):
            self.log("input", x)
            return {"output": self.prepared}

    class Unwatched(Model):
        callbacks = loggers = None

    class Mixed(ls.LitAPI):
        "Async by LitServe's switch, with plain hooks between."
        def __init__(self):
            super().__init__(enable_async=True)
        def setup(self, device): ...
        def decode_request(self, request):
            return request["input"]
        async def predict(self, x):
            return x + 1
        def encode_response(self, output):
            return {"output": output}

    class Loop(ls.loops.base.LitLoop):
        pass

    class Looped(ls.LitAPI):
        def __init__(self):
            super().__init__(loop=Loop())
        def setup(self, device): ...
        def predict(self, x): ...

    class Continuous(Looped):
        def __init__(self):
            from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop
            ls.LitAPI.__init__(self, stream=True, loop=ContinuousBatchingLoop())

    served = Unwatched()
    server = ls.LitServer(served)  # looks at its api, and gives it a loop
    assert not isinstance(served.loop, str)
"""


def test_litserves_callbacks_and_loggers_work_on_the_class(serve: Serve) -> None:
    late_or_skip("litserve")
    instance = serve(LITSERVE, "Model", "--device", "cpu")
    assert instance.post({"input": 3}).json() == {"output": 2}  # pre_setup, then setup
    instance.wait_for("^before Model cpu$")
    instance.wait_for("^logged input {'input': 3}$")
    instance.wait_for("^a request came$")
    instance.wait_for("the page that Prints mounts is not served here")


def test_litserves_log_without_loggers_is_a_line_and_no_warning(serve: Serve) -> None:
    late_or_skip("litserve")
    instance = serve(LITSERVE, "served")
    assert instance.post({"input": 3}).status_code == 200
    instance.wait_for(r"'input': \{'input': 3\}.*instance\.model")
    assert not any("without a configured logger" in line for line in instance.log)


def test_litserves_async_switch_allows_plain_hooks_between(serve: Serve) -> None:
    late_or_skip("litserve")
    assert serve(LITSERVE, "Mixed").post({"input": 3}).json() == {"output": 4}


@pytest.mark.parametrize("name", ["Looped", "Continuous"])
def test_a_class_with_a_loop_of_its_own_is_refused_and_not_misread(serve: Serve, name: str) -> None:
    late_or_skip("litserve")
    instance = serve(LITSERVE, name, wait=False)
    line = instance.refused()
    assert "brings a loop" in line
    assert line.strip().endswith("an async or generator predict, can do its work")
