"""What spans did a process export, as a collector got them over OTLP?

An HTTP server on a free port that decodes what OpenTelemetry's protocol says is sent there. It
can be told to hang, or to refuse.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.harness.gateway import eventually

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ids are hexadecimal, times seconds since the epoch."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    failed: bool
    facts: dict[str, Any]
    resource: dict[str, Any]

    @property
    def took_s(self) -> float:
        return self.ended - self.began


class Collector:
    """Takes spans in. `hang` keeps who exports waiting; `status` is what it is answered."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.exports = 0
        self.hang = False
        self.status = 200
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process export here, and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    async def take(self, request: web.Request) -> web.Response:
        self.exports += 1
        body = await request.read()
        if self.hang:
            await asyncio.sleep(60)
        if self.status == 200:
            assert request.content_type == "application/x-protobuf"
            if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
                body = gzip.decompress(body)
            self.spans += decoded(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")

    def of(self, trace: str) -> list[Span]:
        """The spans of one trace, by when they began."""
        return sorted((s for s in self.spans if s.trace == trace), key=lambda s: (s.began, s.id))

    async def found(self, wanted: Callable[[Span], bool], count: int = 1) -> list[Span]:
        """The spans that are `wanted`, once there are `count` of them."""

        def enough() -> list[Span]:
            spans = [span for span in self.spans if wanted(span)]
            return spans if len(spans) >= count else []

        found: list[Span] = await eventually(enough, what=f"{count} spans; {self.spans}")
        return found


def decoded(body: bytes) -> list[Span]:
    """The spans of one export."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            span.name,
            KINDS[span.kind],
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
            span.status.code == 2,
            _facts(span.attributes),
            _facts(group.resource.attributes),
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _facts(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.port = runner.addresses[0][1]
    try:
        yield collector
    finally:
        await runner.cleanup()
