"""An annotation of `encode_response` holds for what goes out, as FastAPI's `response_model` does:
what the type lacks is cut off, what does not fit it is an error and goes nowhere."""

import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import Serve
from tests.instance.litserve_side import Both, both  # noqa: F401  (a fixture)

late_or_skip("litserve")

CLASSES = """
    import ipaddress, uuid
    from dataclasses import dataclass
    from datetime import date, datetime, timedelta, timezone
    from decimal import Decimal
    from enum import Enum
    from pathlib import Path
    from typing import Any, Optional, Union
    from typing_extensions import TypedDict

    import numpy as np
    import litserve as ls
    from fastapi import Response
    from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

    class Kind(Enum):
        a = "A"

    class Inner(BaseModel):
        seen: int

    class More(Inner):
        secret: str = "inner-secret"

    class Out(BaseModel):
        a: int
        b: Optional[str] = None
        inner: Optional[Inner] = None
        hidden: int = Field(1, exclude=True)
        renamed: int = Field(2, serialization_alias="reNamed")

        @computed_field
        @property
        def twice(self) -> int:
            return 2 * self.a

    class Sub(Out):
        secret: str = "s3cret"

    class Other:
        def __init__(self):
            self.a, self.secret = 7, "s3cret"

    @dataclass
    class Data:
        a: int

    @dataclass
    class SubData(Data):
        secret: str = "s3cret"

    class Typed(TypedDict):
        a: int

    VALUES = {
        "dict": {"a": 1, "secret": "s3cret"},
        "sub": Sub(a=1, inner=More(seen=3)),
        "exact": Out(a=1, renamed=5),
        "text": {"a": "5", "inner": {"seen": 1, "secret": "s3cret"}},
        "wrong": {"b": "s3cret"},
        "none": None,
        "list": [{"a": 1, "secret": "s3cret"}],
        "float": 2.5,
        "number": "x",
        "object": Other(),
        "data": SubData(1),
        "response": Response("as it is", status_code=201, media_type="text/plain"),
    }

    class Api(ls.LitAPI):
        def setup(self, device): ...
        def decode_request(self, request): return request["which"]
        def predict(self, x): return VALUES[x]

    class Free(Api):
        def predict(self, x):
            rich = {
                "moment": datetime(2026, 1, 2, tzinfo=timezone.utc), "day": date(2026, 1, 2),
                "long": timedelta(minutes=1.5), "one": uuid.UUID(int=1), "kind": Kind.a,
                "host": ipaddress.ip_address("::1"), "path": Path("/x"), "secret": SecretStr("x"),
                "money": Decimal("1.50"), "set": {1}, "data": Data(1),
            }
            return {"small": rich, "huge": [rich, 1 << 70]}[x]

    class OfModel(Api):
        def encode_response(self, output) -> Out: return output

    class OfList(Api):
        def encode_response(self, output) -> list[Out]: return output

    class OfUnion(Api):
        def encode_response(self, output) -> Union[Out, float]: return output

    class OfData(Api):
        def encode_response(self, output) -> Data: return output

    class OfTyped(Api):
        def encode_response(self, output) -> Typed: return output

    class OfDict(Api):
        def encode_response(self, output) -> dict: return output

    class Async(Api):
        def __init__(self):
            super().__init__(enable_async=True)
        async def decode_request(self, request): return request["which"]
        async def predict(self, x): return VALUES[x]
        async def encode_response(self, output) -> Out: return output

    class Batched(Api):
        def __init__(self):
            super().__init__(max_batch_size=4, batch_timeout=0.001)
        def predict(self, x): return [VALUES[one] for one in x]
        def encode_response(self, output) -> Out: return output
"""
WHICH = (
    "dict", "sub", "exact", "text", "wrong", "none", "list", "float", "number", "object", "data",
    "response",
)  # fmt: skip


ANNOTATED = ("OfModel", "OfList", "OfUnion", "OfData", "OfTyped", "OfDict", "Async", "Batched")


@pytest.mark.parametrize("name", ANNOTATED)
def test_answers_are_validated_and_filtered_as_litserves_are(both: Both, name: str) -> None:  # noqa: F811
    pair = both(CLASSES, *ANNOTATED, "Free")
    for which in WHICH:
        theirs, ours = pair.ask(f"/{name}", json={"which": which})
        assert ours.status_code == theirs.status_code, (which, theirs.text, ours.text)
        if theirs.status_code < 300:
            assert ours.content == theirs.content, which
            assert ours.headers["content-type"] == theirs.headers["content-type"]
        else:
            assert ours.json()["code"] == "model_error", which
            assert "s3cret" not in ours.text


def test_values_of_pythons_own_types_are_written_as_litserve_writes_them(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, *ANNOTATED, "Free")
    for which in ("small", "huge"):
        theirs, ours = pair.ask("/Free", json={"which": which})
        assert theirs.status_code == ours.status_code == 200, ours.text
        assert ours.json() == theirs.json()


ENDPOINTS = """
    from pydantic import BaseModel
    from instance import endpoint
    import numpy as np

    class Out(BaseModel):
        a: int

    class Sub(Out):
        secret: str = "s3cret"

    @endpoint("/one")
    def one(x: int) -> Out:
        return Sub(a=x) if x else {"b": 1}

    @endpoint("/many", max_batch_size=8)
    def many(inputs: list[int]) -> list[Out]:
        return [{"a": x, "secret": 1} for x in inputs]

    @endpoint("/arrays")
    def arrays(x: int) -> list[float]:
        return np.ones(x)
"""


def test_an_endpoints_annotation_holds_too(serve: Serve, served: Serve) -> None:
    assert served(ENDPOINTS, "one").post(1, "/one").json() == {"a": 1}
    assert serve(ENDPOINTS, "many").post(1, "/many").json() == {"a": 1}
    assert serve(ENDPOINTS, "arrays").post(2, "/arrays").json() == [1.0, 1.0]


def test_what_does_not_fit_is_named_to_whoever_runs_it_and_sent_to_nobody(served: Serve) -> None:
    instance = served(ENDPOINTS, "one")
    answer = instance.post(0, "/one")
    assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert answer.json()["detail"] == "the model's answer does not fit Out: /a: Field required"


def test_an_annotation_that_says_nothing_to_pydantic_is_named_at_start(serve: Serve) -> None:
    instance = serve(
        """
        import numpy as np
        from instance import ModelAPI
        class Model(ModelAPI):
            def predict(self, x): return np.ones(2)
            def encode_response(self, output) -> np.ndarray: return output
        """
    )
    assert instance.post(1).json() == [1.0, 1.0]
    instance.wait_for("not checked against .*ndarray")


def test_an_annotation_that_cannot_be_found_is_named_at_start(serve: Serve) -> None:
    instance = serve(
        """
        from __future__ import annotations
        from instance import ModelAPI
        class Model(ModelAPI):
            def predict(self, x): return x
            def encode_response(self, output) -> Nowhere: return output
        """
    )
    assert instance.post(1).json() == 1
    instance.wait_for("encode_response says Nowhere, which cannot be found: .* not checked")


RAISING = """
    import litserve as ls
    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPBearer
    from instance import ModelAPI

    class Raising(ls.LitAPI):
        def authorize(self, token=Depends(HTTPBearer(auto_error=False))):
            if token is None or token.credentials != "a":
                raise HTTPException(403, {"why": ["token"]}, {"X-Why": "token"})
        def setup(self, device): ...
        def decode_request(self, request):
            if request == "decode":
                raise HTTPException(501, "not that", headers={"X-Why": "that"})
            return request
        def predict(self, x):
            raise HTTPException(status_code=418, detail={"hot": [x]})

    class Ours(ModelAPI):
        def setup(self, device): ...
        def predict(self, x):
            raise HTTPException(418, {"hot": [x]})
"""


def test_what_an_exception_for_the_client_says_goes_out_as_fastapi_sends_it(both: Both) -> None:  # noqa: F811
    pair = both(RAISING, "Raising")
    for body, token, why in (("decode", "a", "that"), (3, "a", None), (3, "b", "token")):
        theirs, ours = pair.ask(json=body, headers={"Authorization": f"Bearer {token}"})
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert ours.headers.get("x-why") == why  # which LitServe loses on the way


def test_a_class_of_our_own_says_it_as_a_problem(serve: Serve) -> None:
    answer = serve(RAISING, "Ours").post(3)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["detail"]) == (418, {"hot": [3]})
    assert answer.json()["code"] == "refused"


FAILING = """
    import litserve as ls
    from instance import ModelAPI

    class Failing(ls.LitAPI):
        def setup(self, device): ...
        def decode_request(self, request): return request
        def predict(self, x): raise RuntimeError("s3cret")

    class Miscounting(ls.LitAPI):
        def __init__(self):
            super().__init__(max_batch_size=2, batch_timeout=0.001)
        def setup(self, device): ...
        def decode_request(self, request): return request
        def predict(self, x): return x
        def unbatch(self, output): return [*output, "s3cret"]

    class Ours(ModelAPI):
        def setup(self, device): ...
        def predict(self, x): raise RuntimeError("s3cret")
"""


@pytest.mark.parametrize("name", ["Failing", "Miscounting"])
def test_the_detail_of_a_failure_is_litserves_and_our_fields_stand_beside_it(
    both: Both,  # noqa: F811
    name: str,
) -> None:
    theirs, ours = both(FAILING, "Failing", "Miscounting").ask(f"/{name}", json=1)
    assert (ours.status_code, theirs.status_code) == (500, 500)
    assert ours.json()["detail"] == theirs.json()["detail"]
    assert (ours.json()["title"], ours.json()["code"]) == ("The model failed", "model_error")
    assert ours.json()["request_id"]
    assert "s3cret" not in ours.text


def test_a_class_of_our_own_says_where_the_reason_is(serve: Serve) -> None:
    answer = serve(FAILING, "Ours").post(1)
    assert answer.json()["detail"] == "the model failed on this request; its log says why"


CONTEXTS = """
    import litserve as ls

    class One(ls.LitAPI):
        def setup(self, device): ...
        def decode_request(self, request, context):
            context["input"] = request
            return request
        def predict(self, x, context):
            context["input"] += 1
            return x
        def encode_response(self, output, context):
            return {"said": context["input"]}

    class Several(ls.LitAPI):
        def __init__(self):
            super().__init__(max_batch_size=2, batch_timeout=0.01)
        def setup(self, device): ...
        def predict(self, batch, context):
            for one, x in zip(context, batch):
                one["input"] = x
            return batch
        def encode_response(self, output, context):
            return {"said": context["input"]}

    class Streams(ls.LitAPI):
        def __init__(self):
            super().__init__(max_batch_size=2, batch_timeout=0.01, stream=True)
        def setup(self, device): ...
        def predict(self, batch, context):
            for one, x in zip(context, batch):
                one["input"] = x
            yield batch
        def encode_response(self, outputs, context):
            for _ in outputs:
                yield [{"said": one["input"]} for one in context]
"""


@pytest.mark.parametrize("name", ["One", "Several", "Streams"])
def test_context_is_given_by_name_as_litserve_gives_it(both: Both, name: str) -> None:  # noqa: F811
    theirs, ours = both(CONTEXTS, "One", "Several", "Streams").ask(f"/{name}", json=5)
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert ours.status_code == 200
