"""What does an editor need to know to help with a configuration file?

Renders the JSON Schema of the file from the models that read it, so that it cannot say
anything else than they do. `python -m gateway.controlplane.configuration.file_schema` writes it to
`gateway/headgate.schema.json`; a test compares.
"""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from gateway.controlplane.configuration.schemas import File

PATH = Path(__file__).parents[2] / "headgate.schema.json"
_DIALECT = GenerateJsonSchema.schema_dialect


def file_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    schema = {"$schema": _DIALECT, **tidied(File.model_json_schema(by_alias=True))}
    return {**schema, "title": "Headgate configuration"}


def tidied(schema: Any) -> Any:
    """`schema` without what pydantic adds for its own: titles of fields, null for what is left
    out."""
    if isinstance(schema, list):
        return [tidied(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    match schema.get("anyOf"):
        case [said, {"type": "null"}]:
            schema = {**said, **{key: value for key, value in schema.items() if key != "anyOf"}}
    return {
        key: _tidied_names(value) if key in ("properties", "$defs") else tidied(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
    }


def _tidied_names(named: dict[str, Any]) -> dict[str, Any]:
    return {name: tidied(value) for name, value in named.items()}


def rendered() -> str:
    return json.dumps(file_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered())
