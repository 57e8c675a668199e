"""How does a route dress the answers that pass, for browsers and for slow lines?

A Shape is what a route's `cors`, `headers` and `compress` come to, made with its snapshot; a route
that says none of them has none. What each of them means is `core.cors`, `core.header_rules` and
`core.compressing`.
"""

from gateway.core.compressing import (
    NOT,
    STREAM,
    VARY,
    Compress,
    chosen,
    coded_lines,
    kind_of,
    known_lines,
)  # fmt: skip
from gateway.core.cors import CorsPolicy, without_cors
from gateway.core.entries import Route
from gateway.core.header_rules import HeaderEdit
from gateway.core.heads import CRLF, RequestHead
from gateway.core.response_heads import ResponseHead
from gateway.dataplane.coding import offered


class Shape:
    """What is done to the answers of one route."""

    __slots__ = ("_came", "_compress", "_edit", "_kind", "_lines", "_offered", "cors")

    def __init__(self, route: Route) -> None:
        cors, rules = route.cors, route.headers
        self.cors = CorsPolicy(cors, route.match.methods) if cors is not None else None
        self._edit = HeaderEdit.of(rules.response) if rules is not None else None
        self._compress: Compress | None = route.compress
        self._offered = offered() if route.compress is not None else ()
        # What the last answer's lines came to: instances repeat themselves.
        self._came: list[bytes] = []
        self._lines: list[bytes] = []
        self._kind = NOT

    @classmethod
    def of(cls, route: Route) -> "Shape | None":
        """The shape of `route`; None if its answers pass as they come."""
        edits = route.headers is not None and HeaderEdit.of(route.headers.response) is not None
        is_shaped = edits or route.cors is not None or route.compress is not None
        return cls(route) if is_shaped else None

    def passing(
        self, asked: RequestHead, head: ResponseHead, size: int, has_body: bool
    ) -> tuple[bytes, str | None]:
        """The status line and the header lines that pass of `head`, the answer to `asked`; and what
        its body is to be compressed as, None: not at all. `size` is the body's, -1 while it is not
        known."""
        if head.forward is not self._came:
            self._look(head.forward)
        lines, more, coding = self._lines, b"", None
        if head.status == 304 and self._compress is not None:
            more = VARY  # as on the answer that it stands for, whose type it need not say
            lines = known_lines(lines, asked.get("if-none-match"))
        elif self._kind != NOT:
            coding = self._coding(asked, head.status, size, has_body)
            if coding is not None:
                lines = coded_lines(lines, coding)
            more = VARY
        if self.cors is not None:
            more += self.cors.answer(asked.get("origin"))
        return CRLF.join((b"HTTP/1.1 " + head.status_line, *lines, more)), coding

    def own(self, asked: RequestHead, lines: bytes) -> bytes:
        """The header lines that go with an answer of the gateway's own, which has `lines`."""
        more = self.beside(lines)
        return more + self.cors.answer(asked.get("origin")) if self.cors is not None else more

    def beside(self, lines: bytes) -> bytes:
        """What of the rules goes with `lines` of the gateway's own; which pages may read it is for
        `cors` alone to say."""
        if self._edit is None:
            return b""
        more = self._edit.beside(lines.split(CRLF))
        if self.cors is not None:
            more = without_cors(more)
        return CRLF.join((*more, b""))

    def _look(self, came: list[bytes]) -> None:
        lines = came if self._edit is None else self._edit.apply(came)
        if self.cors is not None:
            lines = without_cors(lines)
        self._came, self._lines = came, lines
        compress, self._kind = self._compress, NOT
        if compress is not None:
            kind = kind_of(lines)
            self._kind = NOT if kind == STREAM and not compress.events else kind

    def _coding(self, asked: RequestHead, status: int, size: int, has_body: bool) -> str | None:
        """What the body is compressed as. The answer to a HEAD says what that to a GET would."""
        if not (has_body or asked.method == b"HEAD") or not asked.minor:
            return None
        assert self._compress is not None
        if status < 200 or status in (204, 205, 206, 304) or 0 <= size < self._compress.least:
            return None
        return chosen(asked.get("accept-encoding"), self._offered)
