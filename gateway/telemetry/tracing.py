"""How do the spans of this process reach whoever collects them?

Through OpenTelemetry's SDK, over OTLP, from a thread of the SDK's own, set up by the standard
OTEL_* variables. Where they name no collector, or the extra `otel` is not installed, there is
no tracing at all and nothing of it is loaded. A collector that is down or hangs costs spans
and nothing else. Which spans there are is not decided here.
"""

import importlib
import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.tracing import RANDOM, SAMPLED, Attributes, Parent, traceparent_line

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)
CLOSE_S = 1.0
SWITCH_S = 0.0005  # spans are encoded in another thread, which must not hold up the loop for long
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether spans shall be made: a collector or the exporter is named, and nothing forbids."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if named:
        return "otlp" in [name.strip() for name in named.split(",")]
    return any(environment.get(name) for name in ENDPOINTS)


def from_environment(environment: Mapping[str, str], name: str, instance: str) -> "Tracing | None":
    """Tracing as the OTEL_* variables say, None without them.

    `name` and `instance` are this process's `service.name` and `service.instance.id` where the
    variables do not say. What cannot be set up is one line in the log; requests are served.
    """
    if not is_wanted(environment):
        return None
    protocol = next((environment[key] for key in PROTOCOLS if environment.get(key)), "")
    try:
        provider = _provider(protocol or "http/protobuf", name, instance)
    except ImportError as error:
        log.warning(
            "tracing is off: a package is missing; install Headgate with its extra: headgate[otel]",
            extra={"facts": {"missing": error.name, "protocol": protocol or "http/protobuf"}},
        )
    except Exception as error:
        # Whatever the SDK does not like about a variable: a gateway serves without spans too.
        log.warning("tracing is off: %s", error)
    else:
        sys.setswitchinterval(SWITCH_S)
        return Tracing(*provider)
    return None


def _provider(protocol: str, name: str, instance: str) -> "tuple[TracerProvider, _Ids]":
    """The SDK, with everything that has a standard variable read from it by the SDK itself."""
    if protocol not in _EXPORTERS:
        raise ValueError(f"OTLP protocol {protocol!r} is not {' or '.join(_EXPORTERS)}")
    exporter = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    ids = _Ids(RandomIdGenerator())
    provider = TracerProvider(
        resource=_resource(name, instance),
        id_generator=ids,  # type: ignore[arg-type]
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider, ids


def _resource(name: str, instance: str) -> "Resource":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    said = OTELResourceDetector().detect().attributes
    ours = {"service.name": name, "service.instance.id": instance}
    return Resource.create({key: value for key, value in ours.items() if key not in said})


class _Ids:
    """The SDK's ids, but for a trace that begins with a request: it has the request's."""

    def __init__(self, random: Any) -> None:
        self._random = random
        self.next_trace = 0

    def generate_trace_id(self) -> int:
        return self.next_trace or int(self._random.generate_trace_id())

    def generate_span_id(self) -> int:
        return int(self._random.generate_span_id())

    def is_trace_id_random(self) -> bool:
        return False


class Tracing:
    """The spans of this process. Times are monotonic seconds."""

    def __init__(self, provider: "TracerProvider", ids: _Ids) -> None:
        from opentelemetry import trace

        self._api = trace
        self._provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer("headgate")
        self._failed = trace.Status(trace.StatusCode.ERROR)
        self._kinds = trace.SpanKind
        self._offset = 0.0

    def request(
        self, parent: Parent | None, trace: int, name: str, facts: Attributes, at: float
    ) -> "Span":
        """The span of a request that came: a child of `parent`, or the first of `trace`."""
        self._offset = time.time() - time.monotonic()
        context = None
        if parent is not None:
            api = self._api
            flags = api.TraceFlags(
                (SAMPLED if parent.sampled else 0) | (RANDOM if parent.random else 0)
            )
            remote = api.SpanContext(parent.trace_id, parent.span_id, True, flags)
            context = api.set_span_in_context(api.NonRecordingSpan(remote))
        self._ids.next_trace = trace
        return self._tracer.start_span(
            name, context, self._kinds.SERVER, facts, start_time=self._ns(at)
        )

    def child(
        self, parent: "Span", name: str, facts: Attributes, at: float, outward: bool = False
    ) -> "Span":
        """A span inside `parent`; `outward`: of a call to another process."""
        return self._tracer.start_span(
            name,
            self._api.set_span_in_context(parent),
            self._kinds.CLIENT if outward else self._kinds.INTERNAL,
            facts,
            start_time=self._ns(at),
        )

    def end(self, span: "Span", facts: Attributes, failed: bool, at: float) -> None:
        """Ends `span` with what is known by now; it is sent a little later, if it is sampled."""
        span.set_attributes(facts)
        if failed:
            span.set_status(self._failed)
        span.end(self._ns(at))

    def line(self, span: "Span") -> bytes:
        """The `traceparent` line that makes the receiver's span a child of `span`."""
        context = span.get_span_context()
        flags = context.trace_flags
        return traceparent_line(
            context.trace_id, context.span_id, flags.sampled, bool(flags & RANDOM)
        )

    def _ns(self, at: float) -> int:
        return int((at + self._offset) * 1e9)

    def close(self, within_s: float = CLOSE_S) -> None:
        """Sends what there is, and gives up after `within_s` on a collector that hangs."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(within_s)
