"""How do the items of a stream become bytes where no spec says so?

As server-sent events, as lines of JSON, or as they are: the first item and the media type
that the class or the client wants decide. Pure.
"""

from typing import Any

from instance.model.codec import encode_json, encode_spaced
from instance.wire.frames import Buffer, flat

SSE = "text/event-stream"
# What the lines of events begin with; a line that begins with a colon is a comment.
FIELDS = ("data:", "event:", "id:", "retry:")
BLANK_LINE = ("\n\n", "\r\n\r\n", "\r\r")
JSON_LINES = "application/x-ndjson"


class ItemFraming:
    """Turns items into bytes: as events, as lines of JSON, or as they are."""

    def __init__(self, first: Any, sse: bool, media_type: str | None) -> None:
        self.sse = sse or media_type == SSE
        # A model that frames its items itself does so from the first one on. Of any other only a
        # whole event is taken for one: ":" and "id:" may be words of its text.
        self._frames_itself = isinstance(first, str) and first.startswith((*FIELDS, ":"))
        self._frames_itself &= isinstance(first, str) and first.endswith(("\n", "\r"))
        if self.sse:
            self.content_type = SSE
        elif media_type is not None:
            self.content_type = media_type
        elif isinstance(first, str):
            self.content_type = "text/plain; charset=utf-8"
        elif isinstance(first, (bytes, bytearray, memoryview)):
            self.content_type = "application/octet-stream"
        else:
            self.content_type = JSON_LINES

    def item(self, value: Any, choice: int = 0) -> Buffer:
        """The bytes of one item of a stream: an event, or a line, unless it is framed already."""
        if isinstance(value, str):
            if not self.sse or self._is_framed(value):
                return value.encode()
            lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return flat(value)
        if self.sse:
            return b"data: " + encode_json(value) + b"\n\n"
        # Byte for byte as LitServe's clients get them: dicts with spaces, models by field name.
        body = encode_spaced(value) if type(value) is dict else encode_json(value, by_alias=False)
        return body + b"\n"

    def _is_framed(self, text: str) -> bool:
        if self._frames_itself:
            return text.startswith((*FIELDS, ":"))
        return text.startswith(FIELDS) and text.endswith(BLANK_LINE)

    def finish(self) -> bytes:
        return b""
