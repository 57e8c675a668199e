"""What a body is taken for, when its sender said nothing or the wrong thing."""

import pytest
from pydantic import BaseModel, create_model, model_validator

from instance.core.errors import RequestRefused
from instance.model.codec import parse_untyped, parser_for
from instance.requests import Request, Upload

FORM = "application/x-www-form-urlencoded"


class Number(BaseModel):
    input: float

    @model_validator(mode="after")
    def finite(self) -> "Number":
        return self


def typed(body: bytes, content_type: str) -> float:
    parse, _ = parser_for(Number)
    return parse(Request(body=body, content_type=content_type)).input


@pytest.mark.parametrize("content_type", ["", "application/json", FORM, f"{FORM}; charset=utf-8"])
def test_json_is_json_whatever_a_client_adds_unasked(content_type: str) -> None:
    assert typed(b'{"input": 4.5}', content_type) == 4.5
    request = Request(body=b' {"input": 4.5}', content_type=content_type)
    assert parse_untyped(request) == {"input": 4.5}


def test_a_form_stays_a_form() -> None:
    assert typed(b"input=4.5", FORM) == 4.5
    assert dict(parse_untyped(Request(body=b"input=4.5", content_type=FORM))) == {"input": "4.5"}


@pytest.mark.parametrize("body", [b"", b"not json", b"{", b"[1"])
def test_what_is_neither_json_nor_a_form_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        typed(body, FORM)
    assert refused.value.problem.code == "bad_request"


@pytest.mark.parametrize("name", ["Request", "UploadFile", "Upload"])
def test_a_models_own_class_is_validated_whatever_its_name_is(name: str) -> None:
    own = create_model(name, pixels=(list[int], ...))
    _, adapter = parser_for(own)
    assert adapter is not None


def test_starlettes_request_and_upload_stand_for_what_they_are_in_litserve() -> None:
    fastapi = pytest.importorskip("fastapi")
    assert parser_for(fastapi.Request)[0] is parse_untyped
    assert parser_for(fastapi.UploadFile) == parser_for(Upload)
