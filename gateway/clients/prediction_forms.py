"""How does a prediction cross the wire: as which bytes, and what do those that come back mean?

Values in, values out: nothing here knows a connection.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import orjson

from gateway.clients.errors import Refused, Unreachable

JSON = "application/json"
JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
SSE = "text/event-stream"
ITEMS = f"{SSE}, application/x-ndjson;q=0.9, */*;q=0.8"  # events can say what went wrong
Progress = Callable[[int, int | None], object]


def encoded(value: Any, content_type: str | None) -> tuple[bytes, str]:
    """The body for `value` and its media type: bytes as they are, all else as JSON. TypeError for
    what JSON has no word for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), content_type or "application/octet-stream"
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), content_type or JSON


def with_headers(sent: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    """`sent`, but what the caller has `given`, whatever the case of its names."""
    given = given or {}
    names = {name.lower() for name in given}
    return {**{name: sent[name] for name in sent if name.lower() not in names}, **given}


def decoded(content: bytes, media_type: str, charset: str | None) -> Any:
    """What an answer means: JSON decoded, text as str, all else as bytes; None where JSON is
    announced and nothing comes."""
    if media_type == JSON or media_type.endswith("+json"):
        try:
            return orjson.loads(content) if content else None
        except orjson.JSONDecodeError:
            raise Unreachable("the answer says that it is JSON and is not") from None
    if media_type.startswith("text/"):
        return content.decode(_known(charset), "replace")
    return content


def _known(charset: str | None) -> str:
    """The name of a codec of text: UTF-8 where `charset` names none."""
    try:
        b"?".decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # Python has codecs of other things too, such as hex
        return "utf-8"
    return charset or "utf-8"


class Items:
    """The items of one stream, whose media type says how they are told apart: events, lines of
    JSON, one JSON document, or whatever comes at a time."""

    def __init__(self, media_type: str, charset: str | None) -> None:
        self.is_done = False
        self._media_type = media_type
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._event = b""
        self._text = codecs.getincrementaldecoder(_known(charset))("replace")

    def fed(self, piece: bytes) -> Iterator[Any]:
        """The items that `piece` completes; b"" is the end. Refused where one of them says that the
        stream has failed."""
        if self._media_type == SSE:
            for line in self._lines(piece):
                yield from self._field(line)
                if self.is_done:
                    return
        elif self._media_type in JSON_LINES:
            lines = self._lines(piece)
            yield from (_item(line) for line in lines if line.strip())
            if not piece and (last := b"".join(self._rest)).strip():
                yield _item(last)
        elif self._media_type == JSON or self._media_type.endswith("+json"):
            self._rest.append(piece)
            if not piece:
                yield decoded(b"".join(self._rest), self._media_type, None)
        elif self._media_type.startswith("text/"):
            if text := self._text.decode(piece, final=not piece):
                yield text
        elif piece:
            yield piece

    def _lines(self, piece: bytes) -> list[bytes]:
        """The lines that `piece` completes, without their ends."""
        first, *more = piece.split(b"\n")
        self._rest.append(first)
        if not more:
            return []
        lines = [b"".join(self._rest), *more[:-1]]
        self._rest = [more[-1]]
        return [line.removesuffix(b"\r") for line in lines]

    def _field(self, line: bytes) -> Iterator[Any]:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._event = value.strip()
        elif not line and self._data:
            data, event = b"\n".join(self._data), self._event
            self._data, self._event = [], b""
            if data == b"[DONE]":
                self.is_done = True
            else:
                yield _item(data, is_error=event == b"error")


def _item(text: bytes, is_error: bool = False) -> Any:
    """JSON decoded, text that is none as it is; Refused where it is an error."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text.decode("utf-8", "replace")
    problem = value if isinstance(value, dict) else {"detail": str(value)}
    # As an instance says it in lines of JSON, and OpenAI's API in events.
    inner = problem["error"] if problem.keys() == {"error"} else None
    if not is_error and not isinstance(inner, dict):
        return value
    status = (inner if isinstance(inner, dict) else problem).get("status")
    raise Refused(status if isinstance(status, int) else 500, problem)


class InOrder:
    """Many values and their answers, which come in any order and are kept in that of the values."""

    def __init__(self, values: Iterable[Any], at_once: int, progress: Progress | None) -> None:
        if at_once < 1:
            raise ValueError(f"at_once must be 1 or more, not {at_once}")
        self.answers: list[Any] = []
        self._values = iter(values)
        self._total = len(values) if isinstance(values, Sized) else None
        self.at_once = at_once if self._total is None else min(at_once, self._total)
        self._done = 0
        self._progress = progress

    def take(self) -> tuple[int, Any] | None:
        """The next to be asked and its place; None when that was all."""
        for value in self._values:
            self.answers.append(None)
            return len(self.answers) - 1, value
        return None

    def answered(self, place: int, answer: Any) -> None:
        """The value at `place` has its answer."""
        self.answers[place] = answer
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
