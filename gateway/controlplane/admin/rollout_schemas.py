"""How do a rollout and its plan look, for programs that read OpenAPI?"""

from typing import get_args

from gateway.controlplane.admin.schema_parts import (
    COUNT,
    DRY_RUN,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    list_of,
    map_of,
    record,
    whole,
)
from gateway.controlplane.configuration.fields import DURATION
from gateway.controlplane.rollouts.plans import MAX_COUNT, MAX_STEPS, MAX_WHY
from gateway.core.entries import NAME
from gateway.core.rollout import OnFail, State, Verdict

_DURATION: Schema = {"type": "string", "pattern": DURATION}
_PERCENT: Schema = {"type": "number", "minimum": 0.01, "maximum": 100, "multipleOf": 0.01}
_JUDGED: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_COUNT}
_ALPHA: Schema = {"type": "number", "minimum": 1e-6, "maximum": 0.5, "default": 0.01}
_ON_FAIL: Schema = {"enum": list(get_args(OnFail)), "default": "rollback"}


def _closed(required: list[str], **properties: Schema) -> Schema:
    return {**record(required, **properties), "additionalProperties": False}


def _guard(**more: Schema) -> Schema:
    found = _closed([], alpha=_ALPHA, on_fail=_ON_FAIL, **more)
    return {**found, "type": ["object", "null"]}


def _plan() -> Schema:
    step = _closed(
        ["percent"],
        percent=_PERCENT, hold=_DURATION, min_requests=_JUDGED, approval={"type": "boolean"},
    )  # fmt: skip
    at_least = {"type": "number", "minimum": 0.5, "maximum": 0.999999, "default": 0.98}
    agreement = _guard(at_least=at_least)
    agreement["properties"]["on_fail"] = {**_ON_FAIL, "default": "hold"}
    guards = _closed(
        [],
        errors=_guard(),
        latency=_guard(slower_than={"type": "number", "minimum": 1, "maximum": 1000}),
        predictions=_closed(
            ["field"],
            alpha=_ALPHA,
            on_fail={**_ON_FAIL, "default": "warn"},
            field={"type": "string", "pattern": r"^(/([^/~\x00-\x1f]|~[01]){0,64}){1,16}$"},
        ),
        agreement=agreement,
    )
    told = "Left out: errors and latency. agreement needs a mirror to the canary with compare."
    plan = _closed(
        ["to"],
        to={**TEXT, "pattern": NAME, "description": "The canary: a backend of the split."},
        steps={
            "type": "array", "minItems": 1, "maxItems": MAX_STEPS,
            "items": {"anyOf": [_PERCENT, step]}, "default": [1, 5, 25, 50, 100],
            "description": "Percents of the route, rising.",
        },
        hold={**_DURATION, "default": "2m", "description": "At least so long at each step."},
        min_requests={**_JUDGED, "default": 100, "description": "Judged at the canary, each step."},
        warmup={
            **COUNT, "maximum": MAX_COUNT, "default": 20,
            "description": "Its first requests teach nothing.",
        },
        guards={**guards, "minProperties": 1, "description": told},
        on_done={"enum": ["keep", "remove_old"], "default": "keep"},
        why={**TEXT, "maxLength": MAX_WHY},
    )  # fmt: skip
    plan["properties"]["guards"]["type"] = ["object", "null"]
    return plan


def rollout_schemas() -> dict[str, Schema]:
    """The schemas of rollouts, by name."""
    arm = whole(events=COUNT, requests=COUNT)
    guard = whole(
        verdict={"enum": list(get_args(Verdict))},
        evidence=NUMBER,
        threshold=NUMBER,
        canary=arm,
        stable=arm,
        sentence=TEXT,
    )
    state: Schema = {"enum": list(get_args(State))}
    shown: dict[str, Schema] = {
        "route": TEXT,
        "to": TEXT,
        "state": state,
        "step": {**COUNT, "description": "From 1."},
        "share": {**NUMBER, "description": "The canary's part of the route, in percent."},
        "started": TIME,
        "why": TEXT,
        "revision": {**COUNT, "description": "Of the last edit that it made."},
        "driver": {**TEXT, "description": "The gateway that moves it; empty where it is alone."},
        "held_s": {**NUMBER, "description": "So long was this step held."},
        "requests": {**COUNT, "description": "Judged at the canary at this step."},
        "refused": {**COUNT, "description": "As busy by it, at this step; none of them is judged."},
        "held": {**TEXT, "description": "Why no step is passed now, whatever it has; or empty."},
        "pending": {**TEXT, "description": "The state it cannot be brought to (`held`); or empty."},
        "guards": map_of(guard),
        "history": list_of(whole(time=TIME, state=state, step=COUNT, why=TEXT)),
    }
    plan: Schema = {"type": "object", "description": "Where it was asked for, and of a dry run."}
    return {
        "RolloutPlan": _plan(),
        "Rollout": record(list(shown), **shown, plan=plan, dry_run=DRY_RUN),
    }
