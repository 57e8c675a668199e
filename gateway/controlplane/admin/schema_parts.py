"""What the schemas of the admin API are put together from."""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TIME: Schema = {**TEXT, "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
DRY_RUN: Schema = {"const": True}


def ref(name: str) -> Schema:
    """The schema that is called so."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: list[str], **properties: Schema) -> Schema:
    """An object of which these keys are always there."""
    return {"type": "object", "required": required, "properties": properties}


def whole(**properties: Schema) -> Schema:
    """An object of which every key is always there."""
    return record(list(properties), **properties)


def map_of(item: Schema) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": item}


def list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item}
