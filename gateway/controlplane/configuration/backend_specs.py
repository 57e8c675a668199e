"""What may people write about backends: their instances, how these are chosen, probed and ejected?

Part of `schemas`; what each means is `gateway.core.entries`.
"""

from typing import Literal

from pydantic import model_validator

from gateway.controlplane.configuration.fields import (
    Duration,
    InstanceUrl,
    Path,
    Spec,
    fault,
    optional,
)
from gateway.controlplane.configuration.serve_specs import ServeSpec
from gateway.controlplane.configuration.upstream_specs import InstanceTlsSpec, SetHeaders
from gateway.core.entries import BALANCES, INSTANCE_STATES, LIMITS, MAX_COUNT
from gateway.core.placement import FLEET


class QueueSpec(Spec):
    """Requests that wait at the gateway for room at the backend."""

    size: int = optional("Most requests that wait (512).", ge=0, le=MAX_COUNT)
    timeout: Duration = optional("How long one waits (5s).")


class HealthSpec(Spec):
    """How the instances are probed."""

    path: Path = optional("What is asked for (/health/ready).")
    interval: Duration = optional("Between two probes (1s).")
    timeout: Duration = optional("How long a probe may take (1s).")
    rise: int = optional("Good probes that bring an instance in (2).", ge=1, le=100)
    fall: int = optional("Bad probes that take it out (3).", ge=1, le=100)


class EjectSpec(Spec):
    """When failed requests alone take an instance out for a while."""

    failures: int = optional("Failures in a row (5).", ge=1, le=MAX_COUNT)
    base: Duration = optional("For how long, times the ejections in a row (5s).")
    max: Duration = optional("For how long at most (60s).")


class TimeoutsSpec(Spec):
    """How long the gateway waits for an instance. There is no total timeout."""

    connect: Duration = optional("To connect (2s).")
    response: Duration = optional("To the head of the answer (120s).")
    idle: Duration = optional("Between two parts of the answer (300s).")


class BackendSpec(Spec):
    """A named set of interchangeable instances: one model version."""

    instances: list[InstanceUrl] = optional(
        "http://host:port or https://host:port, met at any of its addresses where host is a name;"
        " dns+ before it for every address as an instance; fleet://NAME for those that a fleet has"
        " under its name. With `serve` it may be left out: a port is chosen."
    )
    states: dict[str, Literal[INSTANCE_STATES]] = optional(  # type: ignore[valid-type]
        "host:port → draining or disabled."
    )
    placed: list[InstanceUrl] = optional(
        "Where `headgate up` has the instances, while that is not where `instances` says. It writes"
        " this itself; of what a file says here nothing is kept."
    )
    serve: ServeSpec = optional("How `headgate up` starts the instances.")
    balance: Literal[BALANCES] = optional(  # type: ignore[valid-type]
        "How an instance is chosen (least_loaded)."
    )
    max_in_flight: int = optional(
        "Requests per instance; beyond it they queue (256).", ge=1, le=MAX_COUNT
    )
    limit: Literal[LIMITS] = optional(  # type: ignore[valid-type]
        "What holds requests back before that: what an instance reports or shows that it can"
        " compute at once (learned), or nothing (fixed)."
    )
    queue: QueueSpec = optional("Who waits for room.")
    health: HealthSpec = optional("How the instances are probed.")
    eject: EjectSpec = optional("When failed requests take an instance out.")
    timeouts: TimeoutsSpec = optional("How long the gateway waits for an instance.")
    tls: InstanceTlsSpec = optional("How instances at https:// are met, and by which certificates.")
    headers: SetHeaders = optional(
        "Header fields that are set on all requests to the instances, probes too: a text, or"
        " {env: NAME} or {file: PATH} for what is not to be written down."
    )

    @model_validator(mode="after")
    def _stops_nothing_that_is_written(self) -> "BackendSpec":
        written = self.instances if "instances" in self.model_fields_set else []
        is_stopped = "serve" in self.model_fields_set and self.serve.is_stopped
        if is_stopped and any(not url.startswith(FLEET) for url in written):
            raise fault(
                "replicas", "with `replicas: 0` nothing is at an address: leave `instances` out"
            )
        return self
