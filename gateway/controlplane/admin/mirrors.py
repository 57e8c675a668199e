"""Mirrors: how often do they agree with what clients get?"""

from aiohttp import web

from gateway.controlplane.admin.calls import Call, seal
from gateway.controlplane.admin.schema_parts import (
    COUNT,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    list_of,
    map_of,
    ref,
    whole,
)


async def get_mirror(call: Call) -> web.Response:
    """What is known of the mirror of one route; its values are answers of models, so that a
    viewer sees what `compare.samples` keeps."""
    table = call.publisher.table
    body = call.parts.mirrors.shown(table.document, call.part("route"))
    return call.shown(body, seal(body), table.revision)


def mirror_schemas() -> dict[str, Schema]:
    """The schemas of mirrors, by name."""
    part: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    interval: Schema = {**list_of(NUMBER), "minItems": 2, "maxItems": 2}
    by = {
        **whole(mean=NUMBER, max=NUMBER),
        "type": ["object", "null"],
        "description": "By how much its numbers differ, where they do.",
    }
    field = whole(differ=COUNT, agreement=part, by=by)
    noise = whole(
        pairs=COUNT,
        agreement=part,
        interval=interval,
        fields=map_of(whole(differ=COUNT, agreement=part)),
    )
    sides: Schema = {"type": "object", "properties": {"stable": {}, "mirror": {}}}
    sample = whole(time=TEXT, request_id=TEXT, differs=map_of(sides), more=COUNT)
    verdicts = whole(agree=COUNT, differ=COUNT, unanswered=COUNT, dropped=COUNT)
    return {
        "Mirror": whole(
            route=TEXT,
            backend={**TEXT, "description": "Whose answers are compared."},
            percent=NUMBER,
            since={**TIME, "description": "When it began; an edit of how begins anew."},
            pairs=COUNT,
            agreement={**part, "description": "The part of pairs that agree; null of none."},
            interval={
                **interval,
                "description": "Where the true agreement is, at every look, with `confidence`.",
            },
            confidence=NUMBER,
            noise_floor={
                **noise,
                "type": ["object", "null"],
                "description": "How often the stable version agrees with itself.",
            },
            fields={**map_of(field), "description": "JSON pointer → where pairs differ."},
            tolerances={**map_of(NUMBER), "description": "What was learnt for numbers."},
            learning={**COUNT, "description": "Pairs that wait for a tolerance."},
            samples={**list_of(sample), "description": "The last ones first."},
            verdicts={
                **verdicts,
                "description": "Of each request that was to be compared; the last two are counted"
                " since the gateway started.",
            },
            compare=ref("CompareSpec"),
        )
    }
