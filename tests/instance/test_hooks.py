"""Every form of hook, request and answer, through a real instance."""

import json
import struct

import pytest

from tests.instance.conftest import Serve, eventually

FORMS = """
    import asyncio
    import io
    from enum import Enum
    from types import MappingProxyType
    from instance import ModelAPI, Request, RequestError, Response, endpoint
    from pydantic import BaseModel

    class Number(BaseModel):
        input: float

    class Result(BaseModel):
        output: float

    class AllAsync:
        async def setup(self, device):
            await asyncio.sleep(0)
            self.ready = True
        async def decode_request(self, request, context):
            await asyncio.sleep(0)
            context["seen"] = context.request.headers["X-Name"]
            return request["input"]
        async def predict(self, x, context):
            await asyncio.sleep(0.05)
            return x * 2
        async def encode_response(self, output, context):
            return {"output": output, "seen": context["seen"],
                    "trace": context.request.traceparent}

    class Contexts(ModelAPI):
        max_batch_size = 4
        def setup(self, device): ...
        def decode_request(self, request, context):
            context["name"] = request["name"]
            return request["x"]
        def batch(self, inputs, context):
            assert [c["name"] for c in context]
            return list(inputs)
        def predict(self, batch, context):
            return [(x, c["name"]) for x, c in zip(batch, context)]
        def unbatch(self, output, context):
            return output
        def encode_response(self, output, context):
            assert output[1] == context["name"]
            return {"x": output[0], "name": output[1]}

    class Untyped:
        def setup(self, device): ...
        def predict(self, x):
            if isinstance(x, bytes):
                return x[::-1]
            if isinstance(x, dict) and hasattr(x.get("file"), "read"):
                f = x["file"]
                return {"name": f.filename, "type": f.content_type, "size": len(f.file.read()),
                        "label": x["label"]}
            return {"got": x}

    class Raw:
        def setup(self, device): ...
        def decode_request(self, request: bytes):
            return len(request)
        def predict(self, x):
            return x

    class Whole:
        def setup(self, device): ...
        def decode_request(self, request: Request):
            return request
        def predict(self, request):
            return {"path": request.path, "query": request.query, "method": request.method,
                    "json": request.json(), "type": request.content_type,
                    "header": request.headers["x-thing"]}

    class Upload:
        def setup(self, device): ...
        async def decode_request(self, request):
            file = request["file"]
            begin = await file.read(2)
            await file.seek(0)
            data = await file.read()
            await file.close()
            return data if begin == b"12" else b""
        async def predict(self, x):
            return len(x)

    class Color(Enum):
        RED = "red"
        TWO = 2

    class Answers:
        def setup(self, device):
            import numpy, torch
            self.np, self.torch = numpy, torch
        def predict(self, kind):
            np, torch = self.np, self.torch
            return {
                "dict": {"a": [1, None, {"b": "ü"}]}, "list": [1, 2.5], "str": "text",
                "bytes": b"\\x00\\xff", "none": None, "pydantic": Result(output=1),
                "nested pydantic": {"r": [Result(output=1)]},
                "array": np.arange(6, dtype=np.float32).reshape(2, 3),
                "strided": np.arange(6).reshape(2, 3).T, "scalar": np.float32(0.5),
                "half": np.ones(2, dtype=np.float16),
                "tensor": torch.arange(6).reshape(1, 2, 3), "zero-d": torch.tensor(2.5),
                "bfloat": torch.ones(2, dtype=torch.bfloat16),
                "grad": torch.nn.Parameter(torch.ones(1)),
                "in dict": {"t": torch.ones(2), "n": np.int64(3)},
                "tuple": (1, 2), "set": {1}, "huge": 2**80, "int keys": {1: "a"},
                "response": Response({"made": 1}, 201, {"X-More": "yes"}),
                "html": Response("<p>", media_type="text/html"),
                "nan": {"a": [1.0, float("nan")]}, "inf": float("inf"),
                "nan array": np.array([[0.0], [np.nan]]), "nan model": Result(output=float("nan")),
                "nan tensor": {"t": torch.tensor([float("nan")])},
                "object": object(), "file": io.BytesIO(b"a\\nb"), "bytes in dict": {"b": b"x"},
                "keys": {"a": 1}.keys(), "mapping": {"m": MappingProxyType({"a": 1})},
                "enum keys": {Color.RED: 0.5, Color.TWO: [{Color.RED: 1}]},
                "numpy keys": {np.int64(3): np.float32(0.5), np.bool_(True): 1},
                "view": np.arange(30_000, dtype=np.float32).reshape(2, -1).data,
                "strided view": np.arange(6, dtype=np.uint8).reshape(2, 3).T.data,
            }[kind]

    class Raises:
        def setup(self, device): ...
        def predict(self, kind):
            if kind == "request":
                raise RequestError(418, {"why": "teapot"}, {"X-Why": "tea"})
            if kind == "starlette":
                from fastapi import HTTPException
                raise HTTPException(429, "later", headers={"Retry-After": "7"})
            raise ValueError("a secret")

    class Health:
        def setup(self, device):
            self.well = True
        def predict(self, x):
            self.well = False
            return x
        async def health(self):
            return self.well
        def teardown(self):
            import pathlib
            pathlib.Path("torn").touch()

    @endpoint("/square", max_batch_size=32, batch_timeout=0.002)
    def square(inputs: list[Number]) -> list[Result]:
        "Squares numbers."
        return [Result(output=x.input ** 2) for x in inputs]

    @endpoint("/root")
    async def root(x: Number) -> Result:
        return Result(output=x.input ** 0.5)

    @endpoint("/count", stream=True)
    def count(x: Number):
        yield from range(int(x.input))

    @endpoint
    def bare(x):
        return {"bare": x}
"""


def test_async_hooks_with_context_headers_and_trace(serve: Serve) -> None:
    instance = serve(FORMS, "AllAsync")
    headers = {"X-Name": "me", "traceparent": "00-1-2-01"}
    answer = instance.post({"input": 2}, headers=headers)
    assert answer.json() == {"output": 4, "seen": "me", "trace": "00-1-2-01"}
    assert instance.get("/info").json()["concurrency"] == 1024


def test_batched_hooks_get_a_context_each(served: Serve) -> None:
    answer = served(FORMS, "Contexts").post({"x": 1, "name": "n"})
    assert answer.json() == {"x": 1, "name": "n"}


def test_untyped_requests_arrive_as_their_media_type_says(serve: Serve) -> None:
    instance = serve(FORMS, "Untyped")
    assert instance.post({"a": 1}).json() == {"got": {"a": 1}}
    assert instance.post(content=b"[1]").json() == {"got": [1]}
    raw = instance.post(content=b"abc", headers={"Content-Type": "application/octet-stream"})
    assert (raw.content, raw.headers["content-type"]) == (b"cba", "application/octet-stream")
    assert instance.post(data={"a": "1", "b": "ü"}).json() == {"got": {"a": "1", "b": "ü"}}
    image = ("ä.png", b"\x89PNG" * 50_000, "image/png")
    answer = instance.post(data={"label": "x"}, files={"file": image})
    expected = {"name": "ä.png", "type": "image/png", "size": 200_000, "label": "x"}
    assert answer.json() == expected
    broken = instance.post(content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400


PART = b'--%b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    ("content", "boundary", "says"),
    [
        (PART % b"B", "B", "cut short"),
        (PART % b"B" + b"--B", "B", "cut short"),
        ((PART % b"B")[:-6], "B", "cut short"),
        (b"", "B", "empty"),
        (PART % (b"B" * 300) + b"--" + b"B" * 300 + b"--", "B" * 300, "malformed"),
    ],
)
def test_a_form_that_lost_its_end_or_can_be_none_is_refused_and_not_read_in_part(
    served: Serve, content: bytes, boundary: str, says: str
) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = served(FORMS, "Untyped").post(content=content, headers=kind)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert says in answer.json()["detail"]
    whole = served(FORMS, "Untyped").post(
        content=PART % b"B" + b"--B--", headers={"Content-Type": "multipart/form-data; boundary=B"}
    )
    assert whole.json() == {"got": {"a": "1"}}


def test_annotated_with_bytes_request_or_awaited_uploads(serve: Serve) -> None:
    assert serve(FORMS, "Raw").post(content=b"x" * 100_000).json() == 100_000
    answer = serve(FORMS, "Whole").post([1], path="/predict?a=b", headers={"X-Thing": "t"})
    assert answer.json() == {
        "path": "/predict", "query": "a=b", "method": "POST", "json": [1],
        "type": "application/json", "header": "t",
    }  # fmt: skip
    assert serve(FORMS, "Upload").post(files={"file": b"12345"}).json() == 5


def test_every_kind_of_answer(served: Serve) -> None:
    instance = served(FORMS, "Answers")
    expected = {
        "dict": {"a": [1, None, {"b": "ü"}]}, "list": [1, 2.5], "str": "text", "none": None,
        "pydantic": {"output": 1.0}, "nested pydantic": {"r": [{"output": 1.0}]},
        "array": [[0, 1, 2], [3, 4, 5]], "strided": [[0, 3], [1, 4], [2, 5]], "scalar": 0.5,
        "half": [1, 1], "tensor": [[[0, 1, 2], [3, 4, 5]]], "zero-d": 2.5, "bfloat": [1, 1],
        "grad": [1.0], "in dict": {"t": [1, 1], "n": 3}, "tuple": [1, 2], "set": [1],
        "huge": 2**80, "int keys": {"1": "a"}, "keys": ["a"], "mapping": {"m": {"a": 1}},
        "enum keys": {"red": 0.5, "2": [{"red": 1}]}, "numpy keys": {"3": 0.5, "true": 1},
    }  # fmt: skip
    with instance.client() as client:
        for kind, value in expected.items():
            answer = client.post("/predict", json=kind)
            assert (kind, answer.status_code, answer.json()) == (kind, 200, value)
        answer = client.post("/predict", json="bytes")
        assert (answer.content, answer.headers["content-type"]) == (
            b"\x00\xff",
            "application/octet-stream",
        )
        floats = struct.pack("<30000f", *range(30_000))
        assert client.post("/predict", json="view").content == floats
        assert client.post("/predict", json="strided view").content == bytes((0, 3, 1, 4, 2, 5))
        answer = client.post("/predict", json="response")
        assert (answer.status_code, answer.json(), answer.headers["x-more"]) == (
            201,
            {"made": 1},
            "yes",
        )
        assert client.post("/predict", json="html").headers["content-type"] == "text/html"


def test_r48_an_answer_that_json_cannot_carry_says_so(served: Serve) -> None:
    instance = served(FORMS, "Answers")
    for kind, says in {
        "nan": "holds NaN at /a/1",
        "inf": "holds an infinity",
        "nan array": "holds NaN at /1/0",
        "nan model": "holds NaN at /output",
        "nan tensor": "holds NaN at /t/0",
        "object": "object is not JSON serializable",
        "bytes in dict": "bytes are no JSON",
        "file": "a BytesIO is no JSON; return what its read() gives",
    }.items():
        answer = instance.post(kind)
        assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
        assert says in answer.json()["detail"]


def test_exceptions_with_a_status_are_answered_with_it(served: Serve) -> None:
    instance = served(FORMS, "Raises")
    answer = instance.post("request")
    assert (answer.status_code, answer.json()["detail"]) == (418, {"why": "teapot"})
    assert answer.headers["x-why"] == "tea"
    answer = instance.post("starlette")
    assert (answer.status_code, answer.json()["detail"]) == (429, "later")
    assert answer.headers["retry-after"] == "7"


def test_other_exceptions_go_to_the_log_and_not_to_the_client(served: Serve) -> None:
    instance = served(FORMS, "Raises")
    answer = instance.post("else")
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert "secret" not in answer.text
    instance.wait_for("ValueError: a secret")


def test_the_models_own_health_and_teardown(serve: Serve, tmp_path) -> None:
    instance = serve(FORMS, "Health")
    assert instance.get("/health").status_code == 200
    instance.post(1)
    eventually(lambda: instance.get("/health").status_code == 503)
    assert instance.terminate() == 0
    assert (tmp_path / "torn").exists()


def test_endpoints_of_one_file_are_served_one_instance_each(serve: Serve) -> None:
    square = serve(FORMS, "square")
    assert square.post({"input": 3}, path="/square").json() == {"output": 9.0}
    assert square.post({"input": "x"}, path="/square").status_code == 422
    document = square.get("/openapi.json").json()
    operation = document["paths"]["/square"]["post"]
    assert json.dumps(operation["requestBody"]).count("#/components/schemas/Number") == 1
    assert "Result" in document["components"]["schemas"]
    root = serve(FORMS, "root")
    assert root.post({"input": 9}, path="/root").json() == {"output": 3.0}
    assert serve(FORMS, "count").post({"input": 3}, path="/count").text == "0\n1\n2\n"
    assert serve(FORMS, "bare").post([1]).json() == {"bare": [1]}


def test_options_win_over_the_class(serve: Serve) -> None:
    instance = serve(FORMS, "Contexts", "--path", "/v1/x", "--max-batch-size", "2",
                     "--batch-timeout", "3ms", "--max-queue", "5")  # fmt: skip
    assert instance.post({"x": 1, "name": "n"}, path="/v1/x").status_code == 200
    info = instance.get("/info").json()
    assert (info["max_batch_size"], info["batch_timeout_s"], info["max_queue"]) == (2, 0.003, 5)


def test_hooks_that_do_not_fit_together_are_refused_at_start(serve: Serve) -> None:
    source = """
        class Model:
            def setup(self, device): ...
            def predict(self, x):
                yield x
    """
    instance = serve(source, wait=False)
    assert "is a generator but stream is not set" in instance.refused()
