"""How does a form become fields and files?

Takes a whole body and gives a `Form`. The parsing of multipart is python-multipart's.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import AliasChoices, BaseModel
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from instance.core.errors import refuse
from instance.requests import Form, Upload

MAX_FIELDS = 1000
SEVERAL = (list, set, frozenset, tuple, deque, Sequence)


def parse_form(media_type: str, content_type: str, body: bytes) -> Form:
    """The fields of `body`; `bad_request` when it is malformed."""
    if media_type != "multipart/form-data":
        return _urlencoded(body)
    if not body:
        raise refuse("bad_request", "the body is empty")
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise refuse("bad_request", "multipart/form-data needs a boundary")
    pairs: list[tuple[str, str | Upload]] = []

    def on_field(field: Any) -> None:
        _room(pairs)
        pairs.append((_text(field.field_name), _text(field.value or b"")))

    kind_of_file = _kind_of_file()

    def on_file(file: Any) -> None:
        _room(pairs)
        source: BytesIO = file.file_object
        source.seek(0)
        kind = getattr(file, "content_type", None)
        kind_text = _text(kind) if kind else "application/octet-stream"
        pairs.append(
            (_text(file.field_name), kind_of_file(_text(file.file_name), kind_text, source.read()))
        )

    ended: list[bool] = []
    try:
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_BODY_SIZE": len(body) + 1},
        )
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise refuse("bad_request", f"the form is malformed: {error}") from None
    if not ended:  # of which the parser says nothing, though the last part is lost
        raise refuse("bad_request", "the form is cut short: its closing boundary is missing")
    return Form(pairs)


def _kind_of_file() -> type[Upload]:
    """`Upload`, which is an `UploadFile` too where the model has loaded FastAPI or Starlette: hooks
    tell files from text by it."""
    for module in ("fastapi", "starlette.datastructures"):
        if isinstance(theirs := getattr(sys.modules.get(module), "UploadFile", None), type):
            return _also(theirs)
    return Upload


@lru_cache
def _also(theirs: type) -> type[Upload]:
    def as_upload(file: Upload) -> tuple[Any, ...]:  # to another process, which looks there
        return Upload, (file.filename, file.content_type, file.file.getvalue(), file.headers)

    return type(Upload.__name__, (Upload, theirs), {"__reduce__": as_upload})


def starlettes_form(form: Form) -> Any:
    """`form` as Starlette has it, which is no dict: hooks tell forms from JSON by that."""
    kind = getattr(sys.modules.get("starlette.datastructures"), "FormData", None)
    return form if kind is None else kind(form.multi_items())


def lists_of(kind: type[BaseModel]) -> frozenset[str]:
    """The names of those fields of `kind`, as clients give them, that hold several values: a form
    repeats the name for each, as FastAPI reads it."""
    fields = kind.model_fields
    several = [name for name in fields if _holds_several(fields[name].annotation)]
    return frozenset(given for name in several for given in _names(kind, name))


def _holds_several(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return any(map(_holds_several, get_args(annotation)))
    return _holds_several(get_args(annotation)[0]) if origin is Annotated else origin in SEVERAL


def _names(kind: type[BaseModel], name: str) -> Iterator[str]:
    alias = kind.model_fields[name].validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else (alias,)
    yield name
    yield from (choice for choice in choices if isinstance(choice, str))


def _urlencoded(body: bytes) -> Form:
    try:
        text = bytes(body).decode()
        return Form(list(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)))
    except ValueError as error:
        raise refuse("bad_request", f"the form is malformed: {error}") from None


def _room(pairs: list[Any]) -> None:
    if len(pairs) >= MAX_FIELDS:
        raise refuse("bad_request", f"the form has more than {MAX_FIELDS} fields")


def _text(raw: bytes | str | None) -> str:
    if raw is None:
        return ""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
