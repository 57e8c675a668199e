"""Classes written for LitServe run here unchanged: the same hooks, batches and streams."""

import json
import threading
from pathlib import Path

import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import Serve, eventually

late_or_skip("litserve")

CLASSES = """
    import time
    from pathlib import Path

    import numpy as np
    import litserve as ls
    from fastapi import HTTPException, Request, Response
    from pydantic import BaseModel

    class SquareRequest(BaseModel):
        input: float

    class SquareResponse(BaseModel):
        output: float

    class PydanticAPI(ls.LitAPI):
        def setup(self, device):
            self.model = lambda x: x**2

        def decode_request(self, request: SquareRequest) -> float:
            return request.input

        def predict(self, x):
            return self.model(x)

        def encode_response(self, output) -> SquareResponse:
            return SquareResponse(output=output)

    class PlainAPI(ls.LitAPI):
        def setup(self, device):
            self.model1 = lambda x: x**2
            self.model2 = lambda x: x**3

        def decode_request(self, request):
            return request["input"]

        def predict(self, x):
            if x < 0:
                raise HTTPException(status_code=400, detail="must not be negative")
            return {"output": self.model1(x) + self.model2(x)}

    class TextStreamAPI(ls.LitAPI):
        def setup(self, device):
            self.words = "one two three"

        def predict(self, request):
            for word in self.words.split():
                yield f"{request['prompt']} {word} "

    class DictStreamAPI(ls.LitAPI):
        def __init__(self):
            super().__init__(stream=True)

        def setup(self, device): ...

        def decode_request(self, request):
            return request["prompt"]

        def predict(self, x):
            for i in range(3):
                yield f"{x} {i}"

        def encode_response(self, output_stream):
            for output in output_stream:
                yield {"output": output}

    class BatchedTorchAPI(ls.LitAPI):
        def setup(self, device):
            global torch
            import torch
            self.model = torch.nn.Linear(2, 1).to(device)
            torch.nn.init.ones_(self.model.weight)
            torch.nn.init.zeros_(self.model.bias)
            self.largest = 0

        def decode_request(self, request):
            return torch.tensor(request["input"], device=self.device, dtype=torch.float32)

        def predict(self, x):
            assert isinstance(x, torch.Tensor) and x.ndim == 2
            while Path("hold").exists():
                time.sleep(0.01)
            self.largest = max(self.largest, len(x))
            return self.model(x)

        def encode_response(self, output):
            return {"output": float(output), "largest": self.largest}

    class BatchedNumpyAPI(ls.LitAPI):
        def setup(self, device):
            self.scale = 2

        def decode_request(self, request):
            return np.asarray(request["input"])

        def batch(self, inputs):
            return np.stack(inputs)

        def predict(self, x):
            return x * self.scale

        def unbatch(self, output):
            return list(output)

        def encode_response(self, output):
            return {"output": output.tolist()}

    class BatchedStreamAPI(ls.LitAPI):
        def setup(self, device): ...

        def decode_request(self, request):
            return request["n"]

        def batch(self, inputs):
            return inputs

        def predict(self, x):
            for i in range(3):
                yield [f"{n}.{i}" for n in x]

        def encode_response(self, output_stream):
            for outputs in output_stream:
                yield [{"output": output} for output in outputs]

    class AsyncAPI(ls.LitAPI):
        def __init__(self):
            super().__init__(enable_async=True)

        def setup(self, device): ...

        async def decode_request(self, request):
            return request["input"]

        async def predict(self, x):
            return x + 1

        async def encode_response(self, output):
            return {"output": output}

    class ContextAPI(ls.LitAPI):
        def setup(self, device): ...

        def decode_request(self, request: Request, context):
            context["scale"] = request["scale"]
            return request["input"]

        def predict(self, x, context):
            return x * context["scale"]

    class ImageAPI(ls.LitAPI):
        def setup(self, device): ...

        def decode_request(self, request: Request):
            return request["image"].file.read()

        def predict(self, x):
            return {"bytes": len(x)}

    class ResponseAPI(ls.LitAPI):
        def setup(self, device): ...

        def predict(self, x):
            return Response(content=b"\\x89PNG", status_code=201,
                            headers={"Content-Type": "image/png", "X-Made": "here"})

    made = PlainAPI(max_batch_size=1, api_path="/custom")
"""


def test_pydantic_request_and_response(serve: Serve) -> None:
    instance = serve(CLASSES, "PydanticAPI")
    assert instance.post({"input": 4.0}).json() == {"output": 16.0}
    assert instance.post({"input": "four"}).status_code == 422
    schemas = instance.get("/openapi.json").json()["components"]["schemas"]
    assert {"SquareRequest", "SquareResponse"} <= set(schemas)


def test_two_models_and_an_http_exception(serve: Serve) -> None:
    instance = serve(CLASSES, "PlainAPI")
    assert instance.post({"input": 4.0}).json() == {"output": 80.0}
    refused = instance.post({"input": -1})
    assert (refused.status_code, refused.json()["detail"]) == (400, "must not be negative")


def test_an_object_brings_its_own_options(serve: Serve) -> None:
    instance = serve(CLASSES, "made")
    assert instance.post({"input": 1}, path="/custom").json() == {"output": 2}


def test_text_streams_by_option_and_dicts_by_the_class(serve: Serve) -> None:
    assert serve(CLASSES, "TextStreamAPI", "--stream").post({"prompt": "p"}).text == (
        "p one p two p three "
    )
    answer = serve(CLASSES, "DictStreamAPI").post({"prompt": "p"})
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"output": f"p {i}"} for i in range(3)
    ]


def test_batched_torch_and_numpy(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    instance = serve(CLASSES, "BatchedTorchAPI", "--max-batch-size", "8", "--batch-timeout", "0.2")
    answers: list = []
    threads = [
        threading.Thread(target=lambda i=i: answers.append(instance.post({"input": [i, 1]}).json()))
        for i in range(16)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: instance.metric("instance_queue_depth") >= 8)
    (tmp_path / "hold").unlink()
    for thread in threads:
        thread.join()
    assert sorted(answer["output"] for answer in answers) == [i + 1.0 for i in range(16)]
    assert max(answer["largest"] for answer in answers) == 8
    numpy = serve(CLASSES, "BatchedNumpyAPI", "--max-batch-size", "4")
    assert numpy.post({"input": [1, 2]}).json() == {"output": [2, 4]}


def test_batched_streams(serve: Serve) -> None:
    instance = serve(CLASSES, "BatchedStreamAPI", "--stream", "--max-batch-size", "4")
    answer = instance.post({"n": 7})
    assert [json.loads(line)["output"] for line in answer.text.splitlines()] == [
        "7.0", "7.1", "7.2",
    ]  # fmt: skip


def test_async_context_upload_and_response(serve: Serve) -> None:
    assert serve(CLASSES, "AsyncAPI").post({"input": 1}).json() == {"output": 2}
    assert serve(CLASSES, "ContextAPI").post({"input": 2, "scale": 5}).json() == 10
    assert serve(CLASSES, "ImageAPI").post(files={"image": b"abc"}).json() == {"bytes": 3}
    answer = serve(CLASSES, "ResponseAPI").post({})
    assert (answer.status_code, answer.content) == (201, b"\x89PNG")
    assert (answer.headers["content-type"], answer.headers["x-made"]) == ("image/png", "here")


@pytest.mark.parametrize("name", ["SimpleLitAPI", "SimpleBatchedAPI", "SimpleTorchAPI"])
def test_litserves_own_examples_as_they_are(serve: Serve, name: str) -> None:
    instance = serve(f"from litserve.test_examples import {name}", name)
    assert instance.post({"input": 4.0}).json() == {
        "output": {"SimpleLitAPI": 16.0, "SimpleBatchedAPI": 16.0, "SimpleTorchAPI": 9.0}[name]
    }


def test_litserves_embedding_spec_gives_the_inputs_as_its_models_ask_for_them(serve: Serve) -> None:
    source = """
        import litserve as ls
        class API(ls.LitAPI):
            def setup(self, device): ...
            def decode_request(self, request):
                return request.ensure_list()
            def predict(self, texts):
                return [[float(len(text))] for text in texts]
            def encode_response(self, output):
                return {"embeddings": output, "prompt_tokens": 2, "total_tokens": 2}
        Model = API(spec=ls.OpenAIEmbeddingSpec())
    """
    answer = serve(source).post({"model": "m", "input": ["a", "bc"]}, path="/v1/embeddings").json()
    assert [one["embedding"] for one in answer["data"]] == [[1.0], [2.0]]
    assert answer["usage"]["total_tokens"] == 2


def test_a_litserver_in_place_of_its_api_is_named_as_such(serve: Serve) -> None:
    source = """
        import litserve as ls
        class API(ls.LitAPI):
            def setup(self, device): ...
            def predict(self, x):
                return x
        server = ls.LitServer(API(), accelerator="cpu")
    """
    instance = serve(source, "server", wait=False)
    assert "is a LitServer; name the LitAPI" in instance.refused()
