"""OpenAI's protocols through classes of LitServe's: what their hooks get is what LitServe hands
them, what clients get is what LitServe answers."""

import asyncio
import json
from typing import Any

import pytest

from instance.core.errors import RequestRefused
from instance.specs.openai_embeddings import refuse_several
from tests.harness.late import Late, late_or_skip
from tests.instance.conftest import Serve
from tests.instance.litserve_side import Both, both  # noqa: F401  (a fixture)

litserve = late_or_skip("litserve")
openai = Late("openai")

CLASSES = """
    import numpy as np
    import litserve as ls
    from litserve.specs.openai import (
        ChatCompletionRequest, ChatMessage, FunctionCall, ImageContent, Tool, ToolCall,
    )
    from litserve.specs.openai_embedding import EmbeddingRequest

    class Chat(ls.LitAPI):
        def __init__(self):
            super().__init__(spec=ls.OpenAISpec())
        def setup(self, device): ...

    class Shown(Chat):
        def decode_request(self, request):
            assert isinstance(request, ChatCompletionRequest)
            return request
        def predict(self, request, context):
            assert isinstance(request.messages[0], ChatMessage)
            parts = request.messages[0].content
            kinds = [type(part).__name__ for part in parts] if isinstance(parts, list) else []
            tools = [tool.function.name for tool in request.tools or []]
            yield repr((
                kinds, tools, request.temperature, request.top_p, request.max_completion_tokens,
                request.user, request.metadata, str(request.tool_choice), request.reasoning_effort,
                request.response_format, sorted(context),
            ))

    class Counting(Chat):
        def predict(self, request):
            for i in range(3):
                yield {"role": "assistant", "content": str(i), "prompt_tokens": 2 * (i == 0),
                       "completion_tokens": 1, "total_tokens": 1 + 2 * (i == 0)}

    class Calling(Chat):
        def predict(self, request):
            if request.user != "silent":
                yield "text"
            yield "call"
        def encode_response(self, items):
            call = ToolCall(
                id="call_1", type="function", function=FunctionCall(name="f", arguments="{}")
            )
            for item in items:
                if item == "text":
                    yield ChatMessage(role="assistant", content="")
                else:
                    yield ChatMessage(role="assistant", tool_calls=[call])

    class Embed(ls.LitAPI):
        def __init__(self, **named):
            super().__init__(spec=ls.OpenAIEmbeddingSpec(), **named)
        def setup(self, device): ...

    class One(Embed):
        def predict(self, x, context):
            assert isinstance(x, (str, list))
            context["prompt_tokens"] = context["total_tokens"] = 7
            texts = [x] if isinstance(x, str) else x
            return np.array([[float(len(text)), 1.0] for text in texts])
        def encode_response(self, output, context):
            counts = {k: context[k] for k in ("prompt_tokens", "total_tokens")}
            return {"embeddings": output, **counts}

    class Default(Embed):
        def predict(self, x, context):
            context["prompt_tokens"] = 7
            return np.array([[float(len(x)), 1.0]])

    class Batched(Embed):
        def __init__(self):
            super().__init__(max_batch_size=4, batch_timeout=0.001)
        def predict(self, texts):
            assert all(isinstance(text, str) for text in texts)
            return np.array([[float(len(text)), 1.0] for text in texts])

    class Requested(Embed):
        def decode_request(self, request):
            assert isinstance(request, EmbeddingRequest)
            return request.ensure_list()
        def predict(self, x):
            return [[float(len(text))] for text in x]
        def encode_response(self, output):
            return {"embeddings": output, "prompt_tokens": 3, "total_tokens": 3}

    class Tokens(Embed):
        def predict(self, tokens):
            if tokens[0] in (0, [0]):
                return [[1.0, 2.0]]
            return [[float(token), 1.0] for token in tokens]
"""
CHAT = "/v1/chat/completions"
TEXT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object"}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def saying(*parts: Any) -> dict[str, Any]:
    return {**TEXT, "messages": [{"role": "user", "content": list(parts)}]}


ASKED = [
    TEXT,
    saying({"type": "text", "text": "x"}, PICTURE, SOUND),
    {**TEXT, "tools": [TOOL], "user": "u", "metadata": {"a": "b"}, "max_completion_tokens": 5},
    {**TEXT, "temperature": 0.1, "top_p": 0.2, "reasoning_effort": "low"},
    {**TEXT, "response_format": SCHEMA},
    {**TEXT, "reasoning_effort": "random"},
    saying({**SOUND, "input_audio": {"data": "", "format": "flac"}}),
    {**TEXT, "tools": [{"type": "function"}]},
    {**TEXT, "tool_choice": "maybe"},
    {"model": "m"},
]


def test_the_request_object_is_litserves_own(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Shown")
    for asked in ASKED:
        theirs, ours = pair.ask(CHAT, json=asked)
        assert ours.status_code == theirs.status_code, (asked, ours.text)
        if theirs.status_code == 200:
            said = [a.json()["choices"][0]["message"]["content"] for a in (theirs, ours)]
            ours_more = said[1].replace(", 'stream_options'", "")
            ours_more = ours_more.replace("['choice', ", "[").replace("'choice', ", "")
            assert ours_more == said[0], asked
        else:
            places = [{tuple(e["loc"]) for e in a.json()["detail"]} for a in (theirs, ours)]
            assert places[0] == places[1], asked


def test_token_counts_are_where_litserve_has_them(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Counting")
    theirs, ours = pair.ask(CHAT, json=TEXT)
    assert ours.json()["usage"] == theirs.json()["usage"]
    streams = pair.ask(CHAT, json={**TEXT, "stream": True})
    ends = [json.loads(a.text.strip().split("\n\n")[-2].removeprefix("data: ")) for a in streams]
    assert set(ends[0]["usage"]) == set(ends[1]["usage"])  # LitServe's are of the last item alone
    assert ends[1]["usage"] == ours.json()["usage"]
    assert ends[0]["choices"][0]["finish_reason"] == ends[1]["choices"][0]["finish_reason"]


def test_answers_have_every_field_that_litserves_have(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Counting")
    for more in ({}, {"stream": True}):
        theirs, ours = pair.ask(CHAT, json={**TEXT, **more})
        if more:
            said = [a.text.strip().split("\n\n")[:-1] for a in (theirs, ours)]
            answers = [[json.loads(e.removeprefix("data: ")) for e in events] for events in said]
        else:
            answers = [[theirs.json()], [ours.json()]]
        assert len(answers[0]) == len(answers[1])
        for one, other in zip(*answers, strict=True):
            assert set(one) == set(other)
            assert one["choices"][0].keys() == other["choices"][0].keys()
            part = "delta" if more else "message"
            delta = [a["choices"][0][part] for a in (one, other)]
            assert delta[0] == delta[1]


def test_calls_of_tools_are_answered_as_litserve_answers_them(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Calling")
    theirs, ours = (a.json()["choices"][0]["message"] for a in pair.ask(CHAT, json=TEXT))
    assert ours == theirs
    assert ours["content"] == ""  # which the model said
    silent = pair.ask(CHAT, json={**TEXT, "user": "silent"})[1].json()["choices"][0]["message"]
    assert silent["content"] is None


@pytest.mark.parametrize("name", ["One", "Default", "Batched", "Requested"])
def test_embeddings_are_litserves(both: Both, name: str) -> None:  # noqa: F811
    pair = both(CLASSES, name)
    for asked in ("abc", ["abc"], ["abc", "de"]):
        if (name, asked) in (("Default", ["abc", "de"]), ("Batched", ["abc"])):
            continue  # this class cannot, in either
        theirs, ours = pair.ask("/v1/embeddings", json={"model": "m", "input": asked})
        assert ours.status_code == theirs.status_code, (asked, theirs.text, ours.text)
        if theirs.status_code == 200:
            assert ours.json()["data"] == theirs.json()["data"]
            if name != "Default":
                assert ours.json()["usage"] == theirs.json()["usage"]
            else:
                assert ours.json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    theirs, ours = pair.ask("/v1/embeddings", json={"input": "abc"})
    assert (theirs.status_code, ours.status_code) == (422, 422)


def test_a_list_of_tokens_may_have_a_vector_for_each_as_litserve_counts_them(
    both: Both,  # noqa: F811
) -> None:
    pair = both(CLASSES, "Tokens")
    theirs, ours = pair.ask("/v1/embeddings", json={"model": "m", "input": [1, 2, 3]})
    assert (theirs.status_code, ours.status_code) == (200, 200), ours.text
    assert ours.json()["data"] == theirs.json()["data"]
    ours = pair.ask("/v1/embeddings", json={"model": "m", "input": [0, 2, 3]})[1]
    assert len(ours.json()["data"]) == 1  # as OpenAI counts them
    ours = pair.ask("/v1/embeddings", json={"model": "m", "input": [[0], [1]]})[1]
    assert "1 vectors came for 2 inputs" in ours.json()["detail"]


def test_several_inputs_are_refused_in_litserves_words_where_batches_are_of_clients(
    both: Both,  # noqa: F811
) -> None:
    pair = both(CLASSES, "Batched")
    theirs, ours = pair.ask("/v1/embeddings", json={"model": "m", "input": ["a", "b"]})
    assert (ours.status_code, theirs.status_code) == (400, 400)
    assert ours.json()["detail"] == theirs.json()["detail"]
    assert ours.json()["code"] == "bad_request"
    assert ours.json()["error"]["message"] == theirs.json()["detail"]
    _, ours = pair.ask("/v1/embeddings", json={"model": "m", "input": "a"})
    assert ours.status_code == 200


def test_where_litserves_spec_has_no_words_for_it_ours_say_it() -> None:
    class Older(litserve.OpenAIEmbeddingSpec):  # type: ignore[misc]
        async def embeddings_endpoint(self, request: Any) -> Any:
            await asyncio.Event().wait()

    for spec in (None, Older()):
        with pytest.raises(RequestRefused) as refused:
            refuse_several(spec, None, 2)
        assert "2 inputs came in one request" in refused.value.problem.detail
        assert "max_batch_size 1" in refused.value.problem.detail


OURS = """
    from instance import ModelAPI
    class Model(ModelAPI):
        spec = "openai-chat"
        def predict(self, request, context):
            part = request.messages[0].content[0] if request.messages[0].content != "x" else None
            yield repr((
                type(part).__name__, [t.function.name for t in request.tools or []],
                request.temperature, request.top_p, request.max_completion_tokens, request.user,
                request.metadata, context.get("top_k"),
            ))
"""


def test_without_litserve_the_request_has_the_same_fields_and_defaults(serve: Serve) -> None:
    instance = serve(OURS)
    for asked, expected in [
        (TEXT, ("NoneType", [], 0.7, 1.0, None, None, None, None)),
        (saying(PICTURE), ("ImageContent", [], 0.7, 1.0, None, None, None, None)),
        (saying({"type": "video", "v": 1}), ("OtherContent", [], 0.7, 1.0, None, None, None, None)),
        (
            {**TEXT, "tools": [TOOL], "user": "u", "metadata": {"a": "b"}, "top_k": 4},
            ("NoneType", ["f"], 0.7, 1.0, None, "u", {"a": "b"}, 4),
        ),
    ]:
        answer = instance.post(asked, CHAT)
        assert answer.json()["choices"][0]["message"]["content"] == repr(expected)
    for asked in (ASKED[5], ASKED[6]):
        answer = instance.post(asked, CHAT)
        assert answer.status_code == 422
        assert answer.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(openai.UnprocessableEntityError, match="reasoning_effort"):
        openai.OpenAI(base_url=f"{instance.url}/v1", api_key="x").chat.completions.create(
            **{**TEXT, "reasoning_effort": "random"}
        )
