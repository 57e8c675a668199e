"""What a body is taken for, when its sender said nothing or the wrong thing."""

import pickle

import pytest
from pydantic import BaseModel, create_model, model_validator

from instance.core.errors import RequestRefused
from instance.model.codec import parse_untyped, parser_for
from instance.requests import Form, Request, Upload

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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_may_begin_with_a_byte_order_mark_or_be_in_another_encoding(encoding: str) -> None:
    body = '{"input": 4.5, "\u00fc": 1}'.encode(encoding)
    assert typed(body, "application/json") == 4.5
    assert parse_untyped(Request(body=body)) == {"input": 4.5, "\u00fc": 1}
    for broken in ("{", '{"input": NaN}', '\ufeff\ufeff{"input": 1}'):
        with pytest.raises(RequestRefused, match="bad_request"):
            typed(broken.encode(encoding), "application/json")
        with pytest.raises(RequestRefused, match="bad_request"):
            parse_untyped(Request(body=broken.encode(encoding)))
    with pytest.raises(RequestRefused, match="invalid_request"):
        typed('{"input": "x"}'.encode(encoding), "application/json")


def test_files_and_forms_are_those_of_the_server_that_hooks_were_written_for() -> None:
    fastapi = pytest.importorskip("fastapi")
    starlette = pytest.importorskip("starlette.datastructures")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n'
        b"X-More: 1\r\nContent-Type: image/x\r\n\r\nxyz\r\n"
        b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n--b--\r\n'
    )
    request = Request(body=body, content_type="multipart/form-data; boundary=b")
    ours, theirs = parse_untyped(request), parse_untyped(request, guesses=True)
    assert isinstance(ours, Form)
    assert isinstance(theirs, starlette.FormData)
    for form in (ours, theirs):
        file = form["f"]
        assert form["n"] == "1"
        assert all(isinstance(file, k) for k in (Upload, fastapi.UploadFile, starlette.UploadFile))
        assert (file.filename, file.size, file.read(1), file.file.read()) == ("a", 3, b"x", b"yz")
        assert (file.headers["X-More"], file.content_type) == ("1", "image/x")
        again = pickle.loads(pickle.dumps(file))
        assert (again.filename, again.content_type, again.read()) == (
            "a",
            file.content_type,
            b"xyz",
        )


def test_a_form_stays_a_form() -> None:
    assert typed(b"input=4.5", FORM) == 4.5
    assert dict(parse_untyped(Request(body=b"input=4.5", content_type=FORM))) == {"input": "4.5"}


@pytest.mark.parametrize("body", [b"", b"not json", b"{", b"[1"])
def test_what_is_neither_json_nor_a_form_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        typed(body, FORM)
    assert refused.value.problem.code == "bad_request"


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        (b"", []),
        (b"yes", [("yes", "")]),
        (b"a&b", [("a", ""), ("b", "")]),
        (b"[a]=1", [("[a]", "1")]),
    ],
)
def test_a_hook_of_litserves_gets_a_form_of_names_or_of_nothing_as_one(
    body: bytes, pairs: list[tuple[str, str]]
) -> None:
    pytest.importorskip("starlette.datastructures")
    form = parse_untyped(Request(body=body, content_type=FORM), guesses=True)
    assert form.multi_items() == pairs
    for broken in (b'{"input": 1', b'{"a"="b"}'):  # curl says "form" of it, who asked did not
        with pytest.raises(RequestRefused, match="bad_request"):
            parse_untyped(Request(body=broken, content_type=FORM), guesses=True)


def test_text_of_a_form_that_is_no_utf_8_is_read_as_starlette_reads_it() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="\xfc"\r\n\r\n\xe9\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="\xe4"\r\n\r\nx\r\n--b--\r\n'
    )
    form = parse_untyped(Request(body=body, content_type="multipart/form-data; boundary=b"))
    assert form["\xfc"] == "\xe9"
    assert form["f"].filename == "\xe4"


@pytest.mark.parametrize("name", ["Request", "UploadFile", "Upload"])
def test_a_models_own_class_is_validated_whatever_its_name_is(name: str) -> None:
    own = create_model(name, pixels=(list[int], ...))
    _, adapter = parser_for(own)
    assert adapter is not None


def test_starlettes_request_and_upload_stand_for_what_they_are_in_litserve() -> None:
    fastapi = pytest.importorskip("fastapi")
    assert parser_for(fastapi.Request)[0] is parse_untyped
    assert parser_for(fastapi.UploadFile) == parser_for(Upload)
