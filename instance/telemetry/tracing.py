"""Which spans does a request leave in an instance, and how do they reach a collector?

The request, its wait in the queue and its time in the model's process, made when it is over
and sent by OpenTelemetry's SDK from a thread of its own, as the standard OTEL_* variables say.
Without them, or without the extra `otel`, nothing of this is loaded. The gateway's span, or
whoever's `traceparent` came, is the parent.
"""

import importlib
import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("instance")
CLOSE_S = 1.0
SWITCH_S = 0.0005  # spans are encoded in another thread, which must not hold up the loop for long
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}

Facts = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Served:
    """A request that is over. Times are monotonic; `taken` is 0 if no model ever had it, and
    `reason` is the error's code, "" for none."""

    path: str
    traceparent: str
    tracestate: str
    request_id: str
    arrived: float
    taken: float
    ended: float
    status: int
    reason: str
    model: str
    device: str
    batch: int

    @property
    def failed(self) -> bool:
        return self.status >= 500 or (self.status == 200 and self.reason not in ("", "client_left"))


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether spans shall be made: a collector or the exporter is named, and nothing forbids."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if named:
        return "otlp" in [name.strip() for name in named.split(",")]
    return any(environment.get(name) for name in ENDPOINTS)


def from_environment(environment: Mapping[str, str], address: str) -> "Tracing | None":
    """Tracing for the instance at `address` as the OTEL_* variables say, None without them."""
    if not is_wanted(environment):
        return None
    protocol = next((environment[key] for key in PROTOCOLS if environment.get(key)), "")
    try:
        provider = _provider(protocol or "http/protobuf", address)
    except ImportError as error:
        log.warning(
            "tracing is off: %s is missing; install Headgate with its extra: headgate[otel]",
            error.name or "a package",
        )
    except Exception as error:
        # Whatever the SDK does not like about a variable: an instance serves without spans too.
        log.warning("tracing is off: %s", error)
    else:
        sys.setswitchinterval(SWITCH_S)
        return Tracing(provider)
    return None


def _provider(protocol: str, address: str) -> "TracerProvider":
    """The SDK, with everything that has a standard variable read from it by the SDK itself."""
    if protocol not in _EXPORTERS:
        raise ValueError(f"OTLP protocol {protocol!r} is not {' or '.join(_EXPORTERS)}")
    exporter = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(address), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


def _resource(address: str) -> "Resource":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    said = OTELResourceDetector().detect().attributes
    ours = {"service.name": "headgate-instance", "service.instance.id": address}
    return Resource.create({key: value for key, value in ours.items() if key not in said})


class Tracing:
    """The spans of this instance."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("headgate.instance")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, served: Served) -> None:
        """Makes the spans of a request that is over."""
        api, offset = self._api, time.time() - time.monotonic()
        carrier = {"traceparent": served.traceparent, "tracestate": served.tracestate}
        span = self._tracer.start_span(
            f"POST {served.path}",
            self._propagator.extract({key: value for key, value in carrier.items() if value}),
            api.SpanKind.SERVER,
            _facts(served),
            start_time=int((served.arrived + offset) * 1e9),
        )
        if span.is_recording():
            inside = api.set_span_in_context(span)
            self._inner("queue", inside, {}, served.arrived, served.taken or served.ended, offset)
            if served.taken:
                facts: Facts = {"headgate.batch.size": served.batch}
                if served.device:
                    facts["headgate.device"] = served.device
                self._inner("predict", inside, facts, served.taken, served.ended, offset)
            if served.failed:
                span.set_status(api.Status(api.StatusCode.ERROR))
        span.end(int((served.ended + offset) * 1e9))

    def _inner(
        self, name: str, context: "Context", facts: Facts, began: float, ended: float, offset: float
    ) -> None:
        start = int((began + offset) * 1e9)
        span = self._tracer.start_span(name, context, attributes=facts, start_time=start)
        span.end(int((ended + offset) * 1e9))

    def close(self, within_s: float = CLOSE_S) -> None:
        """Sends what there is, and gives up after `within_s` on a collector that hangs."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(within_s)


def _facts(served: Served) -> Facts:
    facts: Facts = {
        "http.request.method": "POST",
        "http.response.status_code": served.status,
        "http.route": served.path,
        "url.path": served.path,
        "url.scheme": "http",
        "headgate.model": served.model,
    }
    if served.request_id:
        facts["headgate.request_id"] = served.request_id
    reason = served.reason or (str(served.status) if served.status >= 500 else "")
    return {**facts, "error.type": reason} if reason else facts
