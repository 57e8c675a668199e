"""How does a form become fields and files?

Takes a whole body and gives a `Form`. The parsing of multipart is python-multipart's.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import AliasChoices, BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from instance.core.errors import refuse
from instance.requests import Form, Headers, Upload

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
    parts = _Parts()
    try:
        MultipartParser(boundary, parts.callbacks()).write(bytes(body))
    except FormParserError as error:
        raise refuse("bad_request", f"the form is malformed: {error}") from None
    if not parts.ended:  # of which the parser says nothing, though the last part is lost
        raise refuse("bad_request", "the form is cut short: its closing boundary is missing")
    return Form(parts.pairs)


class _Parts:
    """The parts of a multipart body, as the parser tells of them: the names and values of their
    headers, and what is in them, in pieces."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str | Upload]] = []
        self.ended = False
        self._kind_of_file = _kind_of_file()
        self._name = self._value = b""
        self._headers: list[tuple[str, str]] = []
        self._named: dict[bytes, bytes] = {}  # what Content-Disposition says
        self._pieces: list[bytes] = []

    def callbacks(self) -> Any:
        """Whom the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._named, self._pieces = [], {}, []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        name, value = self._name.lower(), self._value.strip(b" \t")
        self._name = self._value = b""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))
        if name == b"content-disposition":
            self._named = parse_options_header(value)[1]

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _part(self) -> None:
        if b"name" not in self._named:
            raise refuse("bad_request", "a part of the form has no name in its Content-Disposition")
        if len(self.pairs) >= MAX_FIELDS:
            raise refuse("bad_request", f"the form has more than {MAX_FIELDS} fields")
        content = b"".join(self._pieces)
        self.pairs.append((_text(self._named[b"name"]), self._file(content) or _text(content)))

    def _file(self, content: bytes) -> Upload | None:
        """The part as a file, if it says that it is one."""
        if (name := self._named.get(b"filename")) is None:
            return None
        headers = Headers(self._headers)
        kind = headers.get("content-type") or "application/octet-stream"
        return self._kind_of_file(_text(name), kind, content, headers)

    def _end(self) -> None:
        self.ended = True


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


def _text(raw: bytes) -> str:
    """UTF-8, or else Latin-1, as Starlette reads it: nothing that was sent is lost."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
