"""OpenAI's clients and the Open Inference Protocol against real instances."""

import openai
import pytest

from tests.instance.conftest import Serve

MODELS = """
    from instance import ModelAPI, RequestError

    class Chat(ModelAPI):
        "Says words back."
        spec = "openai-chat"

        def setup(self, device): ...

        def predict(self, request, context):
            if request.messages[-1].text() == "fail":
                raise RequestError(400, "not that word")
            yield {"content": "You said:", "prompt_tokens": 3}
            for word in request.messages[-1].text().split():
                if word == "break":
                    raise ValueError("a secret")
                yield {"content": " " + word, "completion_tokens": 1}
            if context["temperature"]:
                yield f" at {context['temperature']}"

    class Tools(ModelAPI):
        spec = "openai-chat"
        def setup(self, device): ...
        async def predict(self, request):
            function = {"name": request.tools[0]["function"]["name"], "arguments": "{}"}
            yield {"content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": function}]}

    class Embed(ModelAPI):
        spec = "openai-embeddings"
        max_batch_size = 4
        def setup(self, device):
            import numpy
            self.np = numpy
        def predict(self, batch):
            return [self.np.array([[len(text), 0.5] for text in texts]) for texts in batch]
        def encode_response(self, output):
            return {"embeddings": output, "prompt_tokens": 7}

    class Tensors(ModelAPI):
        spec = "open-inference"
        inputs = {"x": ("FP32", [-1, 2])}
        outputs = {"sum": ("FP32", [-1])}
        def setup(self, device): ...
        def predict(self, tensors):
            return {"sum": tensors["x"].sum(axis=1), "shape": tensors["x"].shape}
"""


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_chat_completions_by_openais_client(serve: Serve) -> None:
    chat = client(serve(MODELS, "Chat").url)
    messages = [{"role": "user", "content": "one two"}]
    answer = chat.chat.completions.create(model="m", messages=messages, temperature=0.5)
    assert answer.choices[0].message.content == "You said: one two at 0.5"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert answer.usage.total_tokens == 5
    assert [model.id for model in chat.models.list()] == ["Chat"]


def test_chat_completions_as_a_stream(serve: Serve) -> None:
    instance = serve(MODELS, "Chat")
    messages = [{"role": "user", "content": "one two"}]
    stream = client(instance.url).chat.completions.create(
        model="m", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    assert texts == ["You said:", " one", " two", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 5
    raw = instance.post({"messages": messages, "stream": True}, path="/v1/chat/completions")
    assert raw.headers["content-type"] == "text/event-stream"
    assert raw.text.endswith("data: [DONE]\n\n")


def test_chat_errors_reach_openais_client(serve: Serve) -> None:
    chat = client(serve(MODELS, "Chat").url).chat.completions
    with pytest.raises(openai.BadRequestError, match="not that word"):
        chat.create(model="m", messages=[{"role": "user", "content": "fail"}])
    with pytest.raises(openai.UnprocessableEntityError):
        chat.create(model="m", messages=[])
    with pytest.raises(openai.InternalServerError):
        chat.create(model="m", messages=[{"role": "user", "content": "break"}])
    stream = chat.create(
        model="m", messages=[{"role": "user", "content": "one break"}], stream=True
    )
    with pytest.raises(openai.APIError, match="its log says why"):
        list(stream)


def test_tool_calls(serve: Serve) -> None:
    chat = client(serve(MODELS, "Tools").url).chat.completions
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    messages = [{"role": "user", "content": "x"}]
    answer = chat.create(model="m", messages=messages, tools=tools)
    assert answer.choices[0].message.tool_calls[0].function.name == "look"
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = list(chat.create(model="m", messages=messages, tools=tools, stream=True))
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "look"


def test_embeddings_by_openais_client(serve: Serve) -> None:
    embed = client(serve(MODELS, "Embed").url).embeddings
    answer = embed.create(model="m", input=["a", "bcd"])  # base64, as the client prefers
    assert [one.embedding for one in answer.data] == [[1.0, 0.5], [3.0, 0.5]]
    assert answer.usage.prompt_tokens == 7
    answer = embed.create(model="m", input="ab", encoding_format="float")
    assert [one.embedding for one in answer.data] == [[2.0, 0.5]]


def test_litserves_chat_spec_runs_unchanged(serve: Serve) -> None:
    pytest.importorskip("litserve")
    instance = serve(
        """
        import litserve as ls
        from litserve.specs.openai import ChatMessage

        class Model(ls.LitAPI):
            def __init__(self):
                super().__init__(spec=ls.OpenAISpec())
            def setup(self, device): ...
            def predict(self, prompt):
                yield "This is a "
                yield "generated output"
            def encode_response(self, outputs):
                for output in outputs:
                    yield ChatMessage(role="assistant", content=output)
        """
    )
    answer = client(instance.url).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}]
    )
    assert answer.choices[0].message.content == "This is a generated output"


def test_a_spec_decides_whether_its_model_streams(serve: Serve) -> None:
    embed = client(serve(MODELS, "Embed", "--stream").url).embeddings
    assert embed.create(model="m", input=["a"]).data[0].embedding == [1.0, 0.5]
    chat = client(serve(MODELS, "Chat", "--no-stream").url).chat.completions
    answer = chat.create(model="m", messages=[{"role": "user", "content": "one"}])
    assert answer.choices[0].message.content == "You said: one"


def test_open_inference_protocol(serve: Serve) -> None:
    instance = serve(MODELS, "Tensors")
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    path = "/v2/models/Tensors/infer"
    answer = instance.post({"id": "a", "inputs": [tensor]}, path=path).json()
    assert (answer["model_name"], answer["id"]) == ("Tensors", "a")
    assert answer["outputs"][0] == {
        "name": "sum", "shape": [2], "datatype": "FP32", "data": [3.0, 7.0],
    }  # fmt: skip
    only = instance.post({"inputs": [tensor], "outputs": [{"name": "shape"}]}, path=path).json()
    assert [output["data"] for output in only["outputs"]] == [[2, 2]]
    for wrong, pointer in (
        ({"shape": [3]}, "/inputs/0/shape"),
        ({"datatype": "FP31"}, "/inputs/0/datatype"),
        ({"data": ["a", "b", "c", "d"]}, "/inputs/0/data"),
    ):
        refused = instance.post({"inputs": [{**tensor, **wrong}]}, path=path)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == pointer
    for page in ("/v2/health/live", "/v2/health/ready", "/v2/models/Tensors/ready", "/v2"):
        assert instance.get(page).status_code == 200
    model = instance.get("/v2/models/Tensors").json()
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
