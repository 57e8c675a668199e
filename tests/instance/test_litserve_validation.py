"""A 422 carries what FastAPI's has, in `detail`, beboth the fields of a problem."""

import pytest

from tests.harness.late import late_or_skip
from tests.instance.litserve_side import Both, both  # noqa: F401  (a fixture)

late_or_skip("litserve")

CLASSES = """
    import litserve as ls
    from typing import Annotated, Literal
    from pydantic import BaseModel, Field

    class Inner(BaseModel):
        kind: Literal["a", "b"]

    class Asked(BaseModel):
        number: Annotated[int, Field(gt=1, le=5)]
        text: str = "x"
        inner: list[Inner] = []

    class Api(ls.LitAPI):
        def setup(self, device): ...
        def decode_request(self, request: Asked):
            return request.number
        def predict(self, x):
            return x
"""


def test_a_422_has_fastapis_list_and_our_fields(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Api")
    for asked in (
        {},
        {"number": 0},
        {"number": "x", "text": 3},
        {"number": 2, "inner": [{"kind": "a"}, {"kind": "c"}, {}]},
        [],
        "text",
    ):
        theirs, ours = pair.ask(json=asked)
        assert theirs.status_code == ours.status_code == 422, (asked, theirs.text, ours.text)
        assert ours.json()["detail"] == theirs.json()["detail"], asked
        assert ours.json()["code"] == "invalid_request"
        assert ours.json()["errors"][0]["detail"] == theirs.json()["detail"][0]["msg"]
        assert ours.headers["content-type"] == "application/problem+json"


def test_what_a_client_sent_is_not_sent_back_at_length(both: Both) -> None:  # noqa: F811
    pair = both(CLASSES, "Api")
    _, ours = pair.ask(json={"inner": [{"kind": "x" * 100_000}] * 5})
    assert ours.status_code == 422
    assert len(ours.content) < 20_000
    assert ours.json()["detail"][0]["loc"] == ["body", "number"]


FORMS = """
    import litserve as ls
    from typing import Annotated, List
    from fastapi import File, Form, UploadFile
    from pydantic import BaseModel, Field

    class Api(ls.LitAPI):
        def setup(self, device): ...
        def predict(self, x): return x

    class Files(Api):
        def decode_request(self, request: List[UploadFile], **kwargs):
            return [[one.filename, len(one.file.read())] for one in request]

    class OneFile(Api):
        def decode_request(self, request: Annotated[UploadFile, File()]):
            return [request.filename, len(request.file.read())]

    class Asked(BaseModel):
        number: int

    class OfForm(Api):
        def decode_request(self, request: Annotated[Asked, Form()]):
            return request.number

    class Listed(BaseModel):
        tags: list[str] = []
        ids: Annotated[set[int] | None, Field(validation_alias="id")] = None
        one: str = ""

    class OfListedForm(Api):
        def decode_request(self, request: Annotated[Listed, Form()]):
            return [request.tags, sorted(request.ids or ()), request.one]

    class Bounded(Api):
        def decode_request(self, request: Annotated[list[int], Field(max_length=2)]):
            return request
"""
FILES = [("request", ("a.txt", b"abc", "text/plain")), ("request", ("b.txt", b"de", "text/plain"))]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (
            "Files",
            [{"files": FILES}, {"files": FILES[:1]}, {"files": [("other", ("a", b"x"))][:0]}],
        ),
        ("OneFile", [{"files": FILES[:1]}]),
        ("OfForm", [{"data": {"number": "4"}}, {"data": {"number": "x"}}, {"data": {"n": "4"}}]),
        (
            "OfListedForm",
            [
                {"data": {"tags": ["a", "b"], "one": ["x", "y"]}},
                {"data": {"tags": "a", "id": ["2", "1"]}},
                {"data": {"one": "x"}},
                {"data": {"id": ["1", "x"]}},
            ],
        ),
        ("Bounded", [{"json": [1, 2]}, {"json": [1, 2, 3]}]),
    ],
)
def test_what_fastapi_reads_in_an_annotation_holds(both: Both, name: str, asked) -> None:  # noqa: F811
    pair = both(FORMS, "Files", "OneFile", "OfForm", "OfListedForm", "Bounded")
    for one in asked:
        theirs, ours = pair.ask(f"/{name}", **one)
        if "files" in one and not one["files"]:  # no form at all: we say so
            assert (theirs.status_code, ours.status_code) == (422, 415)
            continue
        assert ours.status_code == theirs.status_code, (one, theirs.text, ours.text)
        if ours.status_code == 200:
            assert ours.json() == theirs.json()
        else:
            assert ours.json()["detail"][0]["loc"] == theirs.json()["detail"][0]["loc"]
