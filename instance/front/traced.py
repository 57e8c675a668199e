"""The model's path where tracing is on.

An `Endpoint` that is watched. Only where tracing is on is this class used at all; it changes
nothing of what clients see. Health, metrics and documents leave no spans.
"""

import asyncio
import time

from instance.core.errors import Problem, RequestRefused
from instance.front.driver import Driver
from instance.front.endpoint import Endpoint
from instance.front.incoming import Incoming
from instance.front.jobs import Parts
from instance.telemetry.metrics import Metrics
from instance.telemetry.tracing import Served, Tracing
from instance.wire.replies import Answer


class TracedEndpoint(Endpoint):
    """One model's path, with spans for what the model is asked."""

    def __init__(self, driver: Driver, metrics: Metrics, tracing: Tracing) -> None:
        super().__init__(driver, metrics)
        self._tracing = tracing

    def leave(self, incoming: Incoming) -> None:
        waited = incoming.job.parts is None
        super().leave(incoming)
        if waited:
            self._record(incoming, 499, "client_left")

    def predict(self, incoming: Incoming, path: str) -> None:
        try:
            super().predict(incoming, path)
        except RequestRefused as refused:
            self._record(incoming, refused.problem.status_code, refused.problem.code)
            raise

    def _reply(self, incoming: Incoming, reply: Answer | Problem | Parts) -> None:
        super()._reply(incoming, reply)
        if isinstance(reply, Problem):
            self._record(incoming, reply.status_code, reply.code)
        elif isinstance(reply, Answer):
            self._record(incoming, reply.status, "")

    def _stream(self, incoming: Incoming, parts: Parts) -> asyncio.Task[None]:
        task = super()._stream(incoming, parts)
        device = _device(incoming)

        def over(_: asyncio.Task[None]) -> None:
            left = "" if incoming.connection.transport is not None else "client_left"
            reason = parts.problem.code if parts.problem is not None else left
            self._record(incoming, 200, reason, device=device)

        task.add_done_callback(over)
        return task

    def _record(self, incoming: Incoming, status: int, reason: str, device: str = "") -> None:
        job = incoming.job
        self._tracing.record(
            Served(
                path=self.path,
                traceparent=incoming.header(b"traceparent") or "",
                tracestate=incoming.header(b"tracestate") or "",
                request_id=incoming.header(b"x-request-id") or "",
                arrived=incoming.arrived,
                taken=job.taken if job is not None else 0.0,
                ended=time.monotonic(),
                status=status,
                reason=reason,
                model=self._driver.info.get("name", ""),
                device=device or _device(incoming),
                batch=job.batch if job is not None else 0,
            )
        )


def _device(incoming: Incoming) -> str:
    job = incoming.job
    return job.worker.device if job is not None and job.worker is not None else ""
