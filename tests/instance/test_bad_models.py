"""What a model's code may do without harm to other requests, to the worker or to the machine."""

import re

import pytest

from tests.instance.conftest import Serve, eventually
from tests.instance.loads import later, raw

RAISERS = """
    import asyncio, enum, http, sys
    from fastapi import HTTPException

    class Panic(BaseException): ...

    class Word(enum.StrEnum):
        REASON = "reason"

    class Odd(Exception):
        status_code = 400
        @property
        def detail(self):
            raise ValueError("not even this")

    def do(kind):
        if kind == "exit": sys.exit(3)
        if kind == "interrupt": raise KeyboardInterrupt
        if kind == "panic": raise Panic
        if kind == "cancelled": raise asyncio.CancelledError
        if kind == "closed": raise GeneratorExit
        if kind == "odd": raise Odd
        if kind == "enumerations":
            raise HTTPException(http.HTTPStatus.NOT_FOUND, Word.REASON, {"X-Word": Word.REASON})
        if kind == "half": raise HTTPException(400, "half of a pair: \\ud83d")
        if kind == "half key": return {"\\ud83d": float("nan")}
        if kind == "redirect": raise HTTPException(307, "there", {"Location": "/there"})
        return kind

    class Plain:
        def setup(self, device): ...
        def predict(self, kind):
            return do(kind)

    class Async:
        def setup(self, device): ...
        async def predict(self, kind):
            await asyncio.sleep(0)
            return do(kind)

    class Batched:
        max_batch_size = 8
        def setup(self, device): ...
        def predict(self, kinds):
            return [do(kind) for kind in kinds]

    class Unbatching:
        max_batch_size = 8
        def setup(self, device): ...
        def predict(self, kinds):
            return kinds
        def unbatch(self, kinds):
            for kind in kinds:
                yield do(kind)

    class Encoding:
        def setup(self, device): ...
        def predict(self, kind):
            return kind
        def encode_response(self, kind):
            return do(kind)

    class Streaming:
        stream = True
        def setup(self, device): ...
        def predict(self, kind):
            yield do(kind)

    class StreamingAsync:
        stream = True
        def setup(self, device): ...
        async def predict(self, kind):
            yield do(kind)

    class StreamingBatches:
        stream = True
        max_batch_size = 8
        def setup(self, device): ...
        def predict(self, kinds):
            yield [do(kind) for kind in kinds]
"""
RAISER_NAMES = [
    "Plain", "Async", "Batched", "Unbatching", "Encoding", "Streaming", "StreamingAsync",
    "StreamingBatches",
]  # fmt: skip
KINDS = ["exit", "interrupt", "panic", "cancelled", "closed", "odd"]


@pytest.mark.parametrize("name", RAISER_NAMES)
def test_r48_what_is_raised_and_no_exception_fails_alone_too(serve: Serve, name: str) -> None:
    instance = serve(RAISERS, name)
    workers = instance.workers()
    bodies = [*KINDS, "good"] * 3
    waiting = [later(lambda kind=kind: instance.post(kind)) for kind in bodies]
    for kind, answer in zip(bodies, (wait() for wait in waiting), strict=True):
        assert answer.status_code == (200 if kind == "good" else 500), kind
        assert kind == "good" or answer.json()["code"] == "model_error"
    answer = instance.post("enumerations")
    assert (answer.status_code, answer.json()["detail"]) == (404, "reason")
    assert answer.headers["x-word"] == "reason"
    answer = instance.post("redirect")
    assert (answer.status_code, answer.headers["location"]) == (307, "/there")
    for kind, status, says in [
        ("half", 400, r"half of a pair: \ud83d"),
        ("half key", 500, r"the model's answer holds NaN at /\ud83d, which JSON cannot carry"),
    ]:
        answer = instance.post(kind)
        assert (answer.status_code, answer.json()["detail"]) == (status, says)
    assert instance.workers() == workers


HALVES = """
    class Model:
        stream = True
        def setup(self, device): ...
        def predict(self, x):
            yield {"a": 1}
            yield {"\\ud83d": float("nan")}
"""


def test_what_a_stream_cannot_send_is_said_also_where_its_name_is_no_text(serve: Serve) -> None:
    instance = serve(HALVES)
    workers = instance.workers()
    for _ in range(2):
        with raw(instance, b"1") as sock:
            got = b"".join(iter(lambda: sock.recv(1000), b""))
        assert rb"holds NaN at /\\ud83d" in got
        assert not got.endswith(b"0\r\n\r\n")
    assert instance.workers() == workers


WAITS = """
    import asyncio
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            return asyncio.sleep(0) if x else x
"""


def test_a_plain_hook_that_gives_what_must_be_awaited_fails_its_request_alone(serve: Serve) -> None:
    instance = serve(WAITS)
    workers = instance.workers()
    assert instance.post(1).json()["code"] == "model_error"
    assert instance.post(0).json() == 0
    assert instance.workers() == workers
    instance.wait_for("a hook waits for something but is no `async def`")


CLOSES = """
    class Model:
        stream = True
        def setup(self, device): ...
        def predict(self, x):
            try:
                for i in range(x):
                    yield "x" * 10_000
            finally:
                raise {what}("while it was closed")

    class Async(Model):
        async def predict(self, x):
            try:
                for i in range(x):
                    yield "x" * 10_000
            finally:
                raise {what}("while it was closed")
"""


@pytest.mark.parametrize("what", ["ValueError", "SystemExit"])
@pytest.mark.parametrize("name", ["Model", "Async"])
def test_what_a_generator_raises_as_its_client_leaves_harms_nobody(
    serve: Serve, name: str, what: str
) -> None:
    instance = serve(CLOSES.format(what=what), name)
    workers = instance.workers()
    sock = raw(instance, b"1000000")
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    sock.close()
    instance.wait_for("while it was closed")
    assert instance.post(0).status_code == 500
    assert instance.workers() == workers


ODD_CLASSES = """
    import sys
    class Model:
        def setup(self, device): ...
        def predict(self, x):
            return x

    class Exits(Model):
        def setup(self, device):
            sys.exit("needs a GPU")
    class Interrupted(Model):
        def setup(self, device):
            raise KeyboardInterrupt
    class PreSetup(Model):
        def pre_setup(self):
            raise RuntimeError("not here")
    class Example(Model):
        example = object()
    class Batch(Model):
        max_batch_size = -2
    class Path(Model):
        api_path = "predict"
    class Accent(Model):
        api_path = "/prédict"
    class Template(Model):
        api_path = "/a/{id}"
    class Timeout(Model):
        batch_timeout = "soon"
    class Arguments(Model):
        def predict(self, x, y):
            return x
    class NoDevice(Model):
        def setup(self): ...
    class Decorated(Model):
        def predict(*given):
            return given[1]
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Exits", "setup of .* failed: SystemExit: needs a GPU"),
        ("Interrupted", "setup of .* failed: KeyboardInterrupt"),
        ("PreSetup", "cannot be served: RuntimeError: not here"),
        ("Example", "example: .* not JSON serializable"),
        ("Batch", "max_batch_size must be a whole number of at least 1, not -2"),
        ("Path", "api_path must start with /, and is 'predict'"),
        ("Accent", "no request asks for the path '/prédict', which holds 'é'; let api_path be"),
        ("Template", "no request asks for the path '/a/{id}', which holds '{'; let api_path be"),
        ("Timeout", "batch_timeout must be a number of seconds, not 'soon'"),
        ("Arguments", r"predict\(x\) cannot be called with its one argument"),
        ("NoDevice", r"setup\(device\) cannot be called with its one argument"),
    ],
)
def test_a_class_that_cannot_work_is_one_line_at_start(serve: Serve, name: str, says: str) -> None:
    assert re.search(says, serve(ODD_CLASSES, name, wait=False).refused())


def test_a_health_that_exits_makes_its_worker_unwell_and_no_more(serve: Serve) -> None:
    instance = serve(
        """
        import sys
        class Model:
            def setup(self, device): ...
            def predict(self, x):
                return x
            def health(self):
                sys.exit(1)
        """
    )
    workers = instance.workers()
    eventually(lambda: instance.get("/health").status_code == 503)
    assert instance.post(1).json() == 1
    assert instance.workers() == workers


def test_whatever_takes_one_argument_will_do(serve: Serve) -> None:
    assert serve(ODD_CLASSES, "Decorated").post(3).json() == 3


def test_setup_health_and_teardown_may_be_async_where_no_other_hook_is(
    serve: Serve, tmp_path
) -> None:
    instance = serve(
        """
        import asyncio, pathlib
        class Model:
            async def setup(self, device):
                await asyncio.sleep(0.01)
                self.well = True
            def predict(self, x):
                self.well = False
                return x
            async def health(self):
                await asyncio.sleep(0.01)
                return self.well
            async def teardown(self):
                await asyncio.sleep(0.01)
                pathlib.Path("torn").touch()
        """
    )
    assert instance.get("/health").status_code == 200
    assert instance.post(1).json() == 1
    eventually(lambda: instance.get("/health").status_code == 503)
    assert instance.metric("instance_worker_restarts_total") == 0
    assert instance.terminate() == 0
    assert (tmp_path / "torn").exists()


VALUES = """
    import collections, dataclasses, decimal, http, pathlib
    from fastapi import Response
    from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
    import instance, numpy
    from pydantic import BaseModel

    @dataclasses.dataclass
    class Point:
        x: float

    class AsWord(BaseModel, ser_json_inf_nan="constants"):
        x: float

    class AsText(BaseModel, ser_json_inf_nan="strings"):
        x: float
        y: int | None = None

    class Outer(BaseModel):
        inner: AsText
        z: int | None = None

    class Number(BaseModel):
        x: float

    class OuterAsText(BaseModel, ser_json_inf_nan="strings"):
        number: Number

    class Priced(BaseModel):
        price: decimal.Decimal
        more: object = None

    circle = {}
    circle["itself"] = circle

    class Model:
        def setup(self, device): ...
        def predict(self, kind):
            nan = float("nan")
            if kind == "cookies":
                answer = Response("x")
                answer.set_cookie("a", "1")
                answer.set_cookie("b", "2")
                return answer
            return {
                "infinite decimal": {"d": [decimal.Decimal("-Infinity")]},
                "signaling decimal": {"d": decimal.Decimal("sNaN")},
                "nan as a word": AsWord(x=nan), "circle": circle, "ten thousand digits": 10**9999,
                "nan as text": AsText(x=nan),
                "nan as text in a list": [AsText(x=nan)], "by number": {1: AsText(x=nan)},
                "nan as text, nested": Outer(inner=AsText(x=nan)),
                "nan beside nan as text": [AsText(x=nan), nan],
                "nan as a word in a list": [AsWord(x=nan)],
                "nan in what is nested": OuterAsText(number=Number(x=nan)),
                "price": Priced(price="1.50"), "prices": [Priced(price="1.50")],
                "array in a model": Priced(price=1, more=numpy.ones(2)),
                "dataclass": Point(1), "nan dataclass": {"p": [Point(nan)]}, "nan set": {nan},
                "decimal": [decimal.Decimal("1.5"), decimal.Decimal(2**60)],
                "path": pathlib.Path("/x"), "range": range(2), "deque": collections.deque([1]),
                "status": instance.Response([1], http.HTTPStatus.CREATED),
                "redirect": RedirectResponse("/x", 302), "plain": Response("x"),
                "named": Response("x", headers={"Content-Type": "text/x-own"}),
                "ours": instance.Response(b"x"),
                "file": FileResponse(__file__, media_type="text/x-python"),
                "stream": StreamingResponse(iter("ab")),
            }[kind]
"""


def test_further_kinds_of_answer(served: Serve) -> None:
    instance = served(VALUES)
    for kind, expected in {
        "dataclass": {"x": 1}, "decimal": [1.5, 2**60], "path": "/x", "range": [0, 1],
        "deque": [1], "status": [1], "nan as text": {"x": "NaN", "y": None},
        "nan as text in a list": [{"x": "NaN", "y": None}],
        "by number": {"1": {"x": "NaN", "y": None}},
        "nan as text, nested": {"inner": {"x": "NaN", "y": None}, "z": None},
        "price": {"price": "1.50", "more": None}, "prices": [{"price": "1.50", "more": None}],
        "array in a model": {"price": 1, "more": [1.0, 1.0]},
    }.items():  # fmt: skip
        assert (kind, instance.post(kind).json()) == (kind, expected)
    assert instance.post("status").status_code == 201
    assert instance.post("cookies").headers.get_list("set-cookie") == [
        "a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax",
    ]  # fmt: skip
    file = instance.post("file")
    assert file.headers["content-type"].startswith("text/x-python")
    assert "class Point" in file.text


def test_a_response_of_starlettes_has_no_other_media_type_than_its_own(served: Serve) -> None:
    instance = served(VALUES)
    kinds = {kind: instance.post(kind).headers.get("content-type")
             for kind in ("redirect", "plain", "named", "ours")}  # fmt: skip
    assert kinds == {
        "redirect": None, "plain": None, "named": "text/x-own", "ours": "application/octet-stream",
    }  # fmt: skip
    assert instance.post("redirect").headers["location"] == "/x"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan dataclass", "holds NaN at /p/0/x"),
        ("nan set", "holds NaN at /0"),
        ("infinite decimal", "holds an infinity at /d/0"),
        ("signaling decimal", "holds NaN at /d"),
        ("nan as a word", "holds NaN at /x"),
        ("nan as a word in a list", "holds NaN at /0/x"),
        ("nan in what is nested", "holds NaN at /number/x"),
        ("nan beside nan as text", "holds NaN at /1"),
        ("circle", "Circular reference"),
        ("ten thousand digits", "4300 digits"),
        ("stream", "to stream, say stream = True"),
    ],
)
def test_an_answer_that_cannot_be_sent_says_what_is_wrong(
    served: Serve, kind: str, says: str
) -> None:
    answer = served(VALUES).post(kind)
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert says in answer.json()["detail"]


def test_what_a_model_prints_is_seen_at_once(serve: Serve, tmp_path) -> None:
    instance = serve(
        """
        import os, sys
        class Model:
            def setup(self, device):
                # As a shell would have it: where the worker writes is a file.
                os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 1)
            def predict(self, x):
                print("seen", x)
                return x
        """
    )
    instance.post(1)
    assert (tmp_path / "printed").read_text() == "seen 1\n"


def test_a_line_that_a_model_prints_is_written_in_one_piece(serve: Serve) -> None:
    """Other processes write to the same pipe, and would come between."""
    instance = serve(
        """
        import os, socket, sys
        from instance import Request

        class Model:
            def setup(self, device): ...
            def authorize(self, request: Request):
                return written() == [b"seen 1 2\\n"] * 2
            def predict(self, x):
                return [line.decode() for line in written()]

        def written():
            "What comes of a print, piece by piece: of a datagram, one is one `write`."
            pieces = []
            for stream in (sys.stdout, sys.stderr):
                here, there = socket.socketpair(type=socket.SOCK_DGRAM)
                kept = os.dup(stream.fileno())
                os.dup2(there.fileno(), stream.fileno())
                print("seen", 1, 2, file=stream)
                os.dup2(kept, stream.fileno())
                os.close(kept)
                pieces.append(here.recv(100, socket.MSG_DONTWAIT))
            return pieces
        """,
        environment={"PYTHONUNBUFFERED": "1"},
    )
    assert instance.post(1).json() == ["seen 1 2\n"] * 2
