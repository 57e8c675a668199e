"""Mirrors: how often do they agree with what clients get?"""

from typing import Any

from aiohttp import web

from gateway.controlplane.admin.calls import Call, seal

Schema = dict[str, Any]


async def get_mirror(call: Call) -> web.Response:
    """What is known of the mirror of one route; its values are answers of models, so that a
    viewer sees what `compare.samples` keeps."""
    table = call.publisher.table
    body = call.parts.mirrors.shown(table.document, call.part("route"))
    return call.shown(body, seal(body), table.revision)


def mirror_schemas() -> dict[str, Schema]:
    """The schemas of mirrors, by name."""
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer", "minimum": 0}
    number: Schema = {"type": "number"}
    time: Schema = {**text, "format": "date-time"}
    part: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    interval: Schema = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    by: Schema = {
        "type": ["object", "null"],
        "required": ["mean", "max"],
        "properties": {"mean": number, "max": number},
        "description": "By how much its numbers differ, where they do.",
    }
    field = _object(differ=count, agreement=part, by=by)
    noise = _object(
        pairs=count,
        agreement=part,
        interval=interval,
        fields=_map(_object(differ=count, agreement=part)),
    )
    sides: Schema = {"type": "object", "properties": {"stable": {}, "mirror": {}}}
    sample = _object(time=text, request_id=text, differs=_map(sides), more=count)
    verdicts = _object(agree=count, differ=count, unanswered=count, dropped=count)
    return {
        "Mirror": _object(
            route=text,
            backend={**text, "description": "Whose answers are compared."},
            percent=number,
            since={**time, "description": "When it began; an edit of how begins anew."},
            pairs=count,
            agreement={**part, "description": "The part of pairs that agree; null of none."},
            interval={
                **interval,
                "description": "Where the true agreement is, at every look, with `confidence`.",
            },
            confidence=number,
            noise_floor={
                **noise,
                "type": ["object", "null"],
                "description": "How often the stable version agrees with itself.",
            },
            fields={**_map(field), "description": "JSON pointer → where pairs differ."},
            tolerances={**_map(number), "description": "What was learnt for numbers."},
            learning={**count, "description": "Pairs that wait for a tolerance."},
            samples={"type": "array", "items": sample, "description": "The last ones first."},
            verdicts={
                **verdicts,
                "description": "Of each request that was to be compared; the last two are counted"
                " since the gateway started.",
            },
            compare={"$ref": "#/components/schemas/CompareSpec"},
        )
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}
