"""What may people write about how `headgate up` starts instances: of which model, where, how many?

Part of `schemas`, the section `serve` of a backend.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import (
    Duration,
    FilePath,
    Path,
    Pause,
    Spec,
    Variable,
    fault,
    only,
    optional,
    passed_on,
)
from gateway.core.entries import DEVICE, MAX_COUNT, MAX_JSON_INTEGER
from gateway.core.units import parse_size

MAX_REPLICAS = 256


def _device(text: str) -> str:
    if not re.fullmatch(DEVICE, text):
        raise fault("device", f"{text!r} is no device; write cpu, cuda:N, mps or auto")
    return text


Device = Annotated[
    str, AfterValidator(_device), Shown({"type": "string", "pattern": f"^({DEVICE})$"})
]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Devices = Annotated[
    list[Device], BeforeValidator(_listed, json_schema_input_type=Device | list[Device])
]


def _memory(value: Any) -> Any:
    try:
        is_one = isinstance(value, str) and (value == "auto" or parse_size(value) > 0)
    except ValueError:
        is_one = False
    if not is_one:
        raise fault("memory", f"{value!r} is no amount of memory; write auto, or like 8GiB")
    return value


Memory = Annotated[
    Any,
    AfterValidator(_memory),
    Shown({"type": "string", "pattern": "^(auto|[0-9]+(B|KiB|MiB|GiB))$"}),
]


def _variable_value(value: Any) -> Any:
    if isinstance(value, str) and "\0" not in value:
        return value
    if isinstance(value, Mapping) and list(value) == ["env"] and isinstance(value["env"], str):
        return {"env": passed_on(value["env"])}
    raise fault("variable", "must be text in quotes, or {env: NAME}")


VariableValue = Annotated[
    Any,
    AfterValidator(_variable_value),
    Shown({"anyOf": [{"type": "string"}, only("env", {"type": "string"})]}),
]


class ScaleSpec(Spec):
    """More replicas while requests wait, fewer after ten quiet minutes."""

    min: int = optional("Never fewer (1).", ge=1, le=MAX_REPLICAS)
    max: int = Field(description="Never more.", ge=1, le=MAX_REPLICAS)
    wait: Duration = optional("How long a request may have to wait (50ms).")

    @model_validator(mode="after")
    def _is_a_range(self) -> "ScaleSpec":
        if (self.min or 1) > self.max:
            raise fault("scale", f"max must be {self.min} or more, as min is")
        return self


class ServeSpec(Spec):
    """How `headgate up` starts the instances of a backend."""

    model: FilePath = Field(description="package.module:Name or path/to/file.py:Name.")
    devices: Devices = optional(
        "cpu, cuda:N, mps or auto; one worker process each. Or just auto: each replica gets the"
        " GPU with most room, or the CPU where there is none.",
        min_length=1,
    )
    memory: Memory = optional(
        "What a replica takes of its device (8GiB), or auto: measured when it was loaded on a GPU."
        " What is said is counted, and two that do not fit are not put on one device. In a cluster"
        " (`--on ray`) it is memory of the host."
    )
    gpus: int = optional(
        "In a cluster (`--on ray`): GPUs of a replica (0). On one machine `devices` says which.",
        ge=0,
        le=64,
    )
    cpus: int = optional(
        "In a cluster (`--on ray`): CPUs that are kept for a replica (1), and its `threads`.",
        ge=1,
        le=1024,
    )
    python: FilePath = optional(
        "The interpreter that runs the instances, like /opt/venv/bin/python (the gateway's own)."
    )
    start: Literal["boot", "demand"] = optional(
        "When it is started: with the gateway (boot), or by the first request (demand)."
    )
    idle: Duration = optional(
        "After how long without a request it is unloaded; left out: never, but for another model"
        " that needs the room. Needs `start: demand`."
    )
    args: dict[str, Any] = optional("What the class's `__init__` gets, by name.")
    env: dict[Variable, VariableValue] = optional(
        "Variables of its environment: a text, or {env: NAME} for one that `headgate up` has."
    )
    replicas: int = optional(
        "How many instances (as many as `instances` has, or 1). Those without an address in"
        " `instances` get a port that is free. 0 stops all of them: requests go where the route"
        " says.",
        ge=0,
        le=MAX_REPLICAS,
    )
    scale: ScaleSpec = optional(
        "How many replicas, by the load: `replicas` is written for it then, from `min` on."
    )
    threads: int = optional(
        "CPU threads of a worker process (a fair part of all CPUs).", ge=1, le=1024
    )
    generation: int = optional(
        "Another number asks for new processes of the same version; `headgate reload` counts it"
        " up.",
        ge=1,
        le=MAX_JSON_INTEGER,
    )
    path: Path = optional("Where the instance answers (its class's api_path, or /predict).")
    workers: int = optional("Worker processes per device (1).", ge=1, le=256)
    max_batch_size: int = optional("Most inputs in one batch.", ge=1, le=MAX_COUNT)
    batch_timeout: Pause = optional("Longest time to wait for more requests to fill a batch.")
    max_queue: int = optional("Most requests that wait in the instance.", ge=1, le=MAX_COUNT)
    timeout: Pause = optional("How long one prediction may take; 0s: for ever.")

    @property
    def is_stopped(self) -> bool:
        """Whether none of it is to run."""
        return "replicas" in self.model_fields_set and self.replicas == 0

    @model_validator(mode="after")
    def _stops_for_itself(self) -> "ServeSpec":
        if not self.is_stopped:
            return self
        if "scale" in self.model_fields_set:
            raise fault("replicas", "replicas of 0 are no number to scale from: leave `scale` out")
        if self.start == "demand":
            raise fault("replicas", "a model that starts on demand is unloaded by `idle`, not by 0")
        return self

    @model_validator(mode="after")
    def _idles_on_demand(self) -> "ServeSpec":
        if "idle" in self.model_fields_set and self.start != "demand":
            raise fault(
                "idle", "idle needs `start: demand`: nothing else starts it again once unloaded"
            )
        return self
