"""OpenAI's clients and the Open Inference Protocol against real instances."""

from typing import Any

import pytest

from tests.harness.late import Late, late_or_skip
from tests.instance.conftest import Serve
from tests.instance.loads import later

openai = Late("openai")

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
            if context["temperature"] != 0.7:
                yield f" at {context['temperature']}"

    class Counting(ModelAPI):
        "Every choice says which it is, and changes what it was given."
        spec = "openai-chat"
        def setup(self, device): ...
        def predict(self, request, context):
            if context["choice"] == 1 and request.messages[0].text() == "fail":
                raise RequestError(400, "not the second")
            yield {"content": f"{context['choice']} of {context['n']}", "prompt_tokens": 5}
            request.messages[0].content += "!"
            yield {"content": ": " + request.messages[0].content, "completion_tokens": 2}
            yield {"finish_reason": "length" if context["choice"] == 2 else None}

    class Batched(ModelAPI):
        "Lists how many lanes each batch had."
        spec = "openai-chat"
        max_batch_size = 2
        def setup(self, device): ...
        def predict(self, requests):
            yield [f"{i} of {len(requests)}" for i, _ in enumerate(requests)]
            yield [None if i == 0 else " more" for i, _ in enumerate(requests)]

    class Endings(ModelAPI):
        "Ends as it is told to; nan is a reason that no JSON can carry."
        spec = "openai-chat"
        def setup(self, device): ...
        def predict(self, request):
            yield {"content": "a", "finish_reason": float("nan")}

    class BatchedEndings(ModelAPI):
        spec = "openai-chat"
        max_batch_size = 4
        batch_timeout = 0.2
        def setup(self, device): ...
        def predict(self, requests):
            bad = [request.messages[0].text() == "nan" for request in requests]
            yield [{"content": "a", "finish_reason": float("nan") if it else "stop"} for it in bad]
            yield [None if it else "b" for it in bad]

    class Tools(ModelAPI):
        spec = "openai-chat"
        def setup(self, device): ...
        async def predict(self, request):
            function = {"name": request.tools[0].function.name, "arguments": "{}"}
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

    class Odd(ModelAPI):
        "Answers with what the input names, which no answer can carry."
        spec = "open-inference"
        def setup(self, device): ...
        def predict(self, tensors, context):
            return {
                "none": None, "rows": [[1], [2, 3]], "mixed": [1.5, None], "bytes": [b"a", "b"],
                "no text": b"\\xff", "nan": [1.0, float("nan")], "name": {5: [1]},
            }[tensors["x"][0]]

    class OddVectors(ModelAPI):
        spec = "openai-embeddings"
        def setup(self, device): ...
        def predict(self, texts):
            return {
                "text": [["a"]], "none": [None], "dict": [{"a": 1}], "nan": [[1.0, float("nan")]],
                "nothing": None, "true": [[True]], "one number": 5,
                "tokens": {"embeddings": [[1.0]], "total_tokens": "many"},
                "nan tokens": {"embeddings": [[1.0]], "prompt_tokens": float("nan")},
            }[texts[0]]

    class OddWords(ModelAPI):
        spec = "openai-chat"
        def setup(self, device): ...
        def predict(self, request):
            yield {
                "number": {"content": 5}, "parts": {"content": [{"type": "text", "text": "a"}]},
                "calls": {"tool_calls": 5}, "call": {"tool_calls": ["look"]},
                "function": {"tool_calls": [{"function": "look"}]},
                "arguments": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
                "tokens": {"content": "a", "prompt_tokens": "many"},
            }[request.messages[0].text()]

    class Thinks(ModelAPI):
        spec = "openai-chat"
        def setup(self, device): ...
        def predict(self, request):
            yield {"role": "assistant"}
            yield {"reasoning_content": "let me "}
            yield {"reasoning_content": "see"}
            yield {"content": "yes", "refusal": None}
            yield {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}

    class Second(Tensors):
        version = 2
"""


def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_chat_completions_by_openais_client(served: Serve) -> None:
    chat = client(served(MODELS, "Chat").url)
    messages = [{"role": "user", "content": "one two"}]
    answer = chat.chat.completions.create(model="m", messages=messages, temperature=0.5)
    assert answer.choices[0].message.content == "You said: one two at 0.5"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert answer.usage.total_tokens == 5
    assert [model.id for model in chat.models.list()] == ["Chat"]


def test_chat_completions_as_a_stream(served: Serve) -> None:
    instance = served(MODELS, "Chat")
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


def test_several_choices_as_one_answer(served: Serve) -> None:
    chat = client(served(MODELS, "Counting").url).chat.completions
    messages = [{"role": "user", "content": "hi"}]
    answer = chat.create(model="m", messages=messages, n=3)
    assert [(one.index, one.message.content) for one in answer.choices] == [
        (0, "0 of 3: hi!"), (1, "1 of 3: hi!"), (2, "2 of 3: hi!"),
    ]  # fmt: skip
    assert [one.finish_reason for one in answer.choices] == ["stop", "stop", "length"]
    assert answer.usage.prompt_tokens == 5  # all choices share one prompt
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 11)
    with pytest.raises(openai.BadRequestError, match="not the second"):
        chat.create(model="m", messages=[{"role": "user", "content": "fail"}], n=2)
    for refused in (0, 129, "two"):
        with pytest.raises(openai.UnprocessableEntityError, match="/n"):
            chat.create(model="m", messages=messages, n=refused)


def test_several_choices_as_a_stream(served: Serve) -> None:
    chat = client(served(MODELS, "Counting").url).chat.completions
    chunks = list(
        chat.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            n=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts, reasons, roles = {}, {}, []
    for chunk in chunks:
        for one in chunk.choices:
            texts[one.index] = texts.get(one.index, "") + (one.delta.content or "")
            reasons[one.index] = one.finish_reason or reasons.get(one.index)
            roles += [one.index] if one.delta.role else []
    assert texts == {index: f"{index} of 3: hi!" for index in range(3)}
    assert reasons == {0: "stop", 1: "stop", 2: "length"}
    assert roles == [0, 1, 2]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [11]
    assert len({chunk.id for chunk in chunks}) == 1
    broken = chat.create(
        model="m", messages=[{"role": "user", "content": "fail"}], n=2, stream=True
    )
    with pytest.raises(openai.APIError, match="not the second"):
        list(broken)


def test_choices_of_a_batched_model_never_make_a_larger_batch(served: Serve) -> None:
    chat = client(served(MODELS, "Batched").url).chat.completions
    answer = chat.create(model="m", messages=[{"role": "user", "content": "hi"}], n=3)
    assert [one.message.content for one in answer.choices] == ["0 of 2", "1 of 2 more", "0 of 1"]


def test_chat_errors_reach_openais_client(served: Serve) -> None:
    chat = client(served(MODELS, "Chat").url).chat.completions
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


@pytest.mark.parametrize("name", ["Endings", "BatchedEndings"])
def test_a_completion_that_cannot_be_ended_says_why_and_its_batch_goes_on(
    served: Serve, name: str
) -> None:
    instance = served(MODELS, name)
    chat = client(instance.url).chat.completions
    nan = {"model": "m", "messages": [{"role": "user", "content": "nan"}]}
    with pytest.raises(openai.InternalServerError, match="holds NaN at /choices/0/finish_reason"):
        chat.create(**nan)
    with pytest.raises(openai.APIError, match="holds NaN at /choices/0/finish_reason"):
        list(chat.create(**nan, stream=True))
    if name == "BatchedEndings":
        good = {"model": "m", "messages": [{"role": "user", "content": "stop"}]}
        path = "/v1/chat/completions"
        waiting = [later(lambda one=one: instance.post(one, path)) for one in (good, nan, good)]
        first, failed, second = [wait() for wait in waiting]
        assert failed.status_code == 500
        for answer in (first, second):
            assert answer.json()["choices"][0]["message"]["content"] == "ab"


def test_tool_calls(served: Serve) -> None:
    chat = client(served(MODELS, "Tools").url).chat.completions
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    messages = [{"role": "user", "content": "x"}]
    answer = chat.create(model="m", messages=messages, tools=tools)
    assert answer.choices[0].message.tool_calls[0].function.name == "look"
    assert answer.choices[0].finish_reason == "tool_calls"
    chunks = list(chat.create(model="m", messages=messages, tools=tools, stream=True))
    assert chunks[0].choices[0].delta.tool_calls[0].function.name == "look"


def test_a_message_may_hold_its_reasoning_and_come_in_any_pieces(served: Serve) -> None:
    chat = client(served(MODELS, "Thinks").url)
    messages = [{"role": "user", "content": "x"}]
    whole = chat.chat.completions.create(model="m", messages=messages)
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("yes", "let me see")
    assert whole.usage.total_tokens == 5
    parts = list(chat.chat.completions.create(model="m", messages=messages, stream=True))
    deltas = [part.choices[0].delta for part in parts]
    assert "".join(getattr(d, "reasoning_content", "") or "" for d in deltas) == "let me see"
    assert "".join(delta.content or "" for delta in deltas) == "yes"


def test_a_tool_call_may_come_in_pieces_and_calls_one_by_one(serve: Serve) -> None:
    instance = serve(
        """
        from instance import ModelAPI

        def call(arguments, **more):
            return {"tool_calls": [{"function": {"arguments": arguments, **more.pop("named", {})},
                                    **more}]}

        class Model(ModelAPI):
            spec = "openai-chat"
            def setup(self, device): ...
            def predict(self, request):
                yield call('{"a":', index=0, id="1", type="function", named={"name": "add"})
                yield call(' 1}', index=0)
                yield call('{}', id="2", type="function", named={"name": "end"})
        """
    )
    chat = client(instance.url).chat.completions
    messages = [{"role": "user", "content": "x"}]
    whole = chat.create(model="m", messages=messages).choices[0]
    made = [(one.id, one.function.name, one.function.arguments) for one in whole.message.tool_calls]
    assert made == [("1", "add", '{"a": 1}'), ("2", "end", "{}")]
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    deltas = [c.choices[0].delta for c in chat.create(model="m", messages=messages, stream=True)]
    calls = [one for delta in deltas for one in delta.tool_calls or []]
    assert [(one.index, one.function.arguments) for one in calls] == [
        (0, '{"a":'), (0, " 1}"), (1, "{}"),
    ]  # fmt: skip


def test_an_answer_in_one_piece_may_take_longer_than_one_item_may(serve: Serve) -> None:
    instance = serve(
        """
        import time
        from instance import ModelAPI
        class Model(ModelAPI):
            spec = "openai-chat"
            def setup(self, device): ...
            def predict(self, request):
                for _ in range(10):
                    time.sleep(0.32)
                    yield "x"
        """,
        "Model", "--timeout", "3s",
    )  # fmt: skip
    messages = [{"role": "user", "content": "x"}]
    answer = client(instance.url).chat.completions.create(model="m", messages=messages)
    assert answer.choices[0].message.content == "x" * 10
    assert instance.metric("instance_worker_restarts_total") == 0


def test_embeddings_by_openais_client(served: Serve) -> None:
    embed = client(served(MODELS, "Embed").url).embeddings
    answer = embed.create(model="m", input=["a", "bcd"])  # base64, as the client prefers
    assert [one.embedding for one in answer.data] == [[1.0, 0.5], [3.0, 0.5]]
    assert answer.usage.prompt_tokens == 7
    answer = embed.create(model="m", input="ab", encoding_format="float")
    assert [one.embedding for one in answer.data] == [[2.0, 0.5]]


def test_litserves_chat_spec_runs_unchanged(serve: Serve) -> None:
    late_or_skip("litserve")
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


def test_open_inference_protocol(served: Serve) -> None:
    instance = served(MODELS, "Tensors")
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
    assert instance.get("/v2/health/live").json() == {"live": True}
    assert instance.get("/v2/health/ready").json() == {"ready": True}
    ready = {"name": "Tensors", "ready": True}
    assert instance.get("/v2/models/Tensors/ready").json() == ready
    refused = instance.post({"inputs": []}, path=path).json()
    (fault,) = refused["detail"]
    assert refused["error"] == f"/inputs: {fault['msg']}"
    for page in ("/v2/health/live", "/v2/health/ready", "/v2/models/Tensors/ready", "/v2"):
        assert instance.get(page).status_code == 200
    model = instance.get("/v2/models/Tensors").json()
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]


@pytest.mark.parametrize(("name", "version"), [("Tensors", "1"), ("Second", "2")])
def test_open_inference_protocol_by_version(served: Serve, name: str, version: str) -> None:
    instance = served(MODELS, name)
    model = f"/v2/models/{name}"
    versioned = f"{model}/versions/{version}"
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    for path in (f"{model}/infer", f"{versioned}/infer"):
        answer = instance.post({"inputs": [tensor]}, path=path).json()
        assert (answer["model_name"], answer["model_version"]) == (name, version)
        assert answer["outputs"][0]["data"] == [3.0]
        assert instance.get(path).headers["allow"] == "POST"
    assert instance.get(versioned).json() == instance.get(model).json()
    assert instance.get(model).json()["versions"] == [version]
    assert instance.get(f"{versioned}/ready").json() == {"name": name, "ready": True}
    refused = [
        instance.post({"inputs": [tensor]}, path=f"{model}/versions/7/infer"),
        instance.get(f"{model}/versions/7"),
        instance.get(f"{model}/versions/7/ready"),
        instance.get("/v2/models/Other/ready"),
        instance.post({"inputs": [tensor]}, path=f"/v2/models/Other/versions/{version}/infer"),
    ]
    assert {answer.status_code for answer in refused} == {404}
    for answer in refused:
        assert f"version {version} of {name} is served here" in answer.json()["error"]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [None]), ("FP32", ["1.5"]), ("FP32", [True]), ("FP32", [1e40]), ("INT32", [1.5]),
        ("INT32", [True]), ("BOOL", [1]), ("BOOL", ["x"]), ("BYTES", [1]), ("BYTES", [None]),
    ],
)  # fmt: skip
def test_data_of_another_type_than_the_tensor_says_is_refused(
    served: Serve, datatype: str, data: list[Any]
) -> None:
    tensor = {"name": "x", "shape": [1], "datatype": datatype, "data": data}
    refused = served(MODELS, "Odd").post({"inputs": [tensor]}, path="/v2/models/Odd/infer")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/inputs/0/data"


def test_two_inputs_of_one_name_are_refused(served: Serve) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    refused = served(MODELS, "Tensors").post(
        {"inputs": [tensor, {**tensor, "data": [3, 4]}]}, path="/v2/models/Tensors/infer"
    )
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/inputs/1/name"


def test_an_output_that_is_wanted_twice_is_refused(served: Serve) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    asked = {"inputs": [tensor], "outputs": [{"name": "y"}, {"name": "y"}]}
    refused = served(MODELS, "Tensors").post(asked, path="/v2/models/Tensors/infer")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/outputs/1/name"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("none", "output 'output' holds NoneType"),
        ("rows", "output 'output' is no tensor"),
        ("mixed", "output 'output' holds NoneType and float"),
        ("name", "the names of outputs must be text"),
    ],
)
def test_what_makes_no_tensor_is_an_error_that_names_its_output(
    served: Serve, named: str, says: str, binary: bool
) -> None:
    answer = infer_odd(served, named, binary)
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert says in answer.json()["detail"]


def test_elements_of_bytes_are_text_in_json_and_what_is_none_goes_as_bytes(served: Serve) -> None:
    assert infer_odd(served, "bytes", False).json()["outputs"][0]["data"] == ["a", "b"]
    assert "no text" in infer_odd(served, "no text", False).json()["detail"]
    assert infer_odd(served, "no text", True).content.endswith(b"\x01\x00\x00\x00\xff")


def test_nan_in_a_tensor_goes_as_bytes_and_is_no_json(served: Serve) -> None:
    assert "holds NaN at /outputs/0/data/1" in infer_odd(served, "nan", False).json()["detail"]
    assert infer_odd(served, "nan", True).status_code == 200


def infer_odd(served: Serve, named: str, binary: bool) -> Any:
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [named]}
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": binary}}
    return served(MODELS, "Odd").post(asked, path="/v2/models/Odd/infer")


def test_a_request_with_nothing_to_embed_is_refused(served: Serve) -> None:
    answer = served(MODELS, "OddVectors").post({"input": []}, path="/v1/embeddings")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/input")


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("text", "/data/0/embedding/0 is no number, but str"),
        ("true", "/data/0/embedding/0 is no number, but bool"),
        ("none", "embedding 0 must be a list, not NoneType"),
        ("dict", "embedding 0 must be a list, not dict"),
        ("nan", "holds NaN at /data/0/embedding/1"),
        ("nothing", "must be a list, not NoneType"),
        ("one number", "must be a list, not int"),
        ("tokens", "total_tokens of a model's answer must be a number, not 'many'"),
        ("nan tokens", "prompt_tokens of a model's answer must be a number, not nan"),
    ],
)
def test_an_embedding_that_is_no_list_of_numbers_is_an_error_however_it_is_encoded(
    served: Serve, named: str, says: str, encoding: str
) -> None:
    asked = {"input": named, "encoding_format": encoding}
    answer = served(MODELS, "OddVectors").post(asked, path="/v1/embeddings")
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("number", "the content of a chat model's message must be text, not int"),
        ("parts", "the content of a chat model's message must be text, not list"),
        ("calls", "the tool_calls of a message must be a list, not int"),
        ("call", "a tool call and its function must be dicts, not str"),
        ("function", "a tool call and its function must be dicts, not str"),
        ("arguments", "the arguments of a tool call must be JSON in text, not dict"),
        ("tokens", "prompt_tokens of a model's answer must be a number, not 'many'"),
    ],
)
def test_a_message_that_no_client_could_read_is_an_error_that_says_why(
    served: Serve, named: str, says: str, stream: bool
) -> None:
    asked = {"messages": [{"role": "user", "content": named}], "stream": stream}
    answer = served(MODELS, "OddWords").post(asked, path="/v1/chat/completions")
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert says in answer.json()["detail"]
