"""What does a hook see of a request besides its decoded body?

`Request` is what a hook gets that asks for it, and what `context.request` holds. `Upload` and
`Form` are how forms arrive. All of it is plain data in the model's process: the connection
stays with the HTTP process.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from instance.model.exact_json import loads


class Headers(Mapping[str, str]):
    """Request headers; names in any case. A repeated header is joined with ", "."""

    __slots__ = ("_values",)

    def __init__(self, pairs: list[tuple[str, str]] | tuple[tuple[str, str], ...] = ()) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            known = self._values.get(key)
            self._values[key] = value if known is None else f"{known}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


_NO_HEADERS = Headers()


@dataclass(slots=True)  # not frozen: one is made for each request, and frozen ones cost double
class Request:
    """One request: its target, headers and body, and the moment its client stops waiting.

    `deadline` is in the clock of `time.monotonic()`, infinite when the client did not say.
    """

    method: str = "POST"
    path: str = "/predict"
    query: str = ""
    headers: Headers = field(default_factory=lambda: _NO_HEADERS)
    body: bytes = b""
    content_type: str = ""
    deadline: float = float("inf")

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context this request came with."""
        return self.headers.get("traceparent")

    def json(self) -> Any:
        """The body parsed as JSON; ValueError when it is not."""
        return loads(self.body)


class Context(dict[str, Any]):
    """The dict that one request's hooks share; `request` is the request it belongs to."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request


class _Bytes(bytes):
    """Bytes that may be awaited: hooks written for a server whose uploads are read with
    `await` work, and so do those that call `read()`."""

    def __await__(self) -> Generator[None, None, bytes]:
        return bytes(self)
        yield  # a generator, though it never waits


class _Done:
    """Nothing, which may be awaited."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # a generator, though it never waits


class Upload:
    """A file of a multipart form: `filename`, `content_type`, and a `file` to read from."""

    __slots__ = ("content_type", "file", "filename", "headers", "size")

    def __init__(
        self, filename: str, content_type: str, data: bytes, headers: Headers | None = None
    ) -> None:
        self.filename = filename
        self.content_type = content_type
        self.file = BytesIO(data)
        self.size = len(data)
        self.headers = headers or Headers()

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, all by default; may be awaited as well."""
        return _Bytes(self.file.read(size))

    def seek(self, offset: int) -> _Done:
        """Goes to byte `offset` for the next `read`; may be awaited as well."""
        self.file.seek(offset)
        return _Done()

    def close(self) -> _Done:
        """Lets go of its bytes; may be awaited as well."""
        self.file.close()
        return _Done()

    def __repr__(self) -> str:
        return f"Upload({self.filename!r}, {self.content_type!r}, {self.size} bytes)"


class Form(dict[str, Any]):
    """The fields of a form by name: text, or `Upload`. The last of a repeated name counts;
    `getlist` has them all."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[str, str | Upload]]) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    def getlist(self, name: str) -> list[str | Upload]:
        """All values of `name`, in order."""
        return [value for key, value in self._pairs if key == name]

    def multi_items(self) -> list[tuple[str, str | Upload]]:
        """Every field with its value, in order."""
        return list(self._pairs)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with its own status, headers and media type.

    Starlette's and FastAPI's responses will do as well: anything with `status_code`, `body`
    and `headers`.
    """

    body: Any = b""
    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None


class RequestError(Exception):
    """Raised by a hook to answer with `status_code` and `detail` instead of a result."""

    def __init__(
        self, status_code: int, detail: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status_code, detail)
        self.status_code = status_code
        self.detail = detail
        self.headers = headers
