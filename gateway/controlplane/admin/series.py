"""How it was in the last hour: rates and percentiles as rows of numbers.

What is kept, and how exactly, is said in `watch.last_hour`.
"""

import asyncio
import time
from collections.abc import Collection

from aiohttp import web

from gateway.controlplane.admin.calls import Call, answer, seal
from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.admin.schema_parts import NUMBER, Schema, list_of, map_of, ref, whole
from gateway.controlplane.watch.last_hour import KEPT_S, STEP_S, Step, columns
from gateway.controlplane.watch.rates import ANSWERS, GATEWAY, QUANTILES, Of
from gateway.core import edits

MAX_NAMES = 50


async def get_series(call: Call) -> web.Response:
    """The rates and percentiles of the gateway, and of the routes and backends that are named."""
    step_s = call.number("step", int(STEP_S), most=int(KEPT_S)) or STEP_S
    last_s = call.number("last", int(KEPT_S), most=int(KEPT_S)) or KEPT_S
    if step_s % STEP_S:
        raise Problem("bad_request", f"?step is a multiple of {STEP_S:g}, in seconds")
    steps = call.parts.hour.steps(step_s, last_s=last_s)
    wanted: list[Of] = [GATEWAY, *_named(call, "route", steps), *_named(call, "backend", steps)]
    if len(wanted) > MAX_NAMES + 1:
        raise Problem("bad_request", f"at most {MAX_NAMES} routes and backends at a time")
    # Seconds of work in all: beside the loop, whose steps no longer change.
    found = await asyncio.to_thread(lambda: {of: columns(steps, of) for of in wanted})
    ahead = time.time() - time.monotonic()
    body = {
        "step_s": step_s,
        "until": [round(step.until + ahead, 3) for step in steps],
        "gateway": found[GATEWAY],
        **{
            f"{kind}s": {of[1]: each for of, each in found.items() if of[0] == kind}
            for kind in ("route", "backend")
        },
    }
    return answer(body, tag=seal(body), revision=call.publisher.table.revision)


def _named(call: Call, kind: str, steps: Collection[Step]) -> list[Of]:
    """The routes or backends that are asked for; Missing for one that never was."""
    found: list[Of] = [(kind, name) for name in dict.fromkeys(call.request.query.getall(kind, []))]
    for of in found:
        if not any(of in counts for step in steps for counts in step.counts):
            edits.entry_of(call.publisher.table.document, f"{kind}s", of[1])
    return found


def series_schemas() -> dict[str, Schema]:
    """The schemas of series, by name."""
    rates = list_of({**NUMBER, "minimum": 0})
    times = list_of({"type": ["number", "null"], "minimum": 0})
    named = map_of(ref("Rates"))
    return {
        "Rates": whole(
            requests_per_s=rates,
            answers_per_s={
                "type": "object",
                "properties": dict.fromkeys(ANSWERS, rates),
                "additionalProperties": False,
                "description": "The kinds of answers that there were.",
            },
            latency_ms={
                **whole(**dict.fromkeys(QUANTILES, times)),
                "description": "Of all requests of a step, within 1.1 %; null: none was timed.",
            },
        ),
        "Series": {
            **whole(
                step_s=NUMBER,
                until={
                    **list_of(NUMBER),
                    "description": "When each step ended, in seconds since 1970; the oldest first.",
                },
                gateway=ref("Rates"),
                routes=named,
                backends=named,
            ),
            "description": "One number for each step. Where much is kept it is less than an hour.",
        },
    }
