"""Which types of requests can be read by msgspec, to the very value that pydantic makes of them?

Numbers, truth values, text, and lists and dicts of these; and a pydantic model, a dataclass or a
`TypedDict` whose fields are such. msgspec reads and checks them in one pass, in half the time. It
accepts less than pydantic does: what it refuses is pydantic's to coerce, or to refuse in its own
words. A type of which anything here is not known to mean the same has no such reading.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import msgspec

Read = Callable[[Any], Any]
Refused = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a `Read` raises where pydantic has to be asked."""

LIMITS = {"ge": "ge", "gt": "gt", "le": "le", "lt": "lt"}
LENGTHS = {"min_length": "min_length", "max_length": "max_length"}
SILENT = {"type", "metadata", "ref"}  # say nothing of which values are accepted
# What what holds fields may say.
MODEL = {"cls", "schema", "config", "custom_init", "root_model"}
DATACLASS = {"cls", "schema", "config", "fields", "frozen", "slots", "post_init"}
FIELDS = {"fields", "model_name", "dataclass_name", "computed_fields", "collect_init_only"}
TYPED_DICT = {"cls", "fields", "config", "computed_fields", "extra_behavior"}
FIELD = {"name", "schema", "required", "kw_only", "init", "frozen"}
PLAIN = {  # and as what, where it would mean another thing otherwise
    "custom_init": False, "root_model": False, "post_init": False, "collect_init_only": False,
    "slots": False, "required": True, "init": True, "computed_fields": [],
    "extra_behavior": "ignore",
}  # fmt: skip


class Unknown(Exception):
    """A type that only pydantic knows how to read."""


def reader_of(schema: Mapping[str, Any]) -> Read | None:
    """What makes the value of a JSON text of the type with pydantic's core `schema`, or raises
    Refused; None where only pydantic knows."""
    try:
        if schema["type"] in ("model", "dataclass", "typed-dict"):
            return _of_fields(schema)
        return msgspec.json.Decoder(_type(schema)).decode
    except (Unknown, TypeError, ValueError):  # the latter two: msgspec can make no such type
        return None


def _of_fields(schema: Mapping[str, Any]) -> Read:
    """The fields are read into a `Struct`, which becomes what pydantic would make of them."""
    inner = schema
    if schema["type"] == "typed-dict":
        _know(schema, TYPED_DICT)
    else:
        _know(schema, MODEL if schema["type"] == "model" else DATACLASS)
        inner = schema["schema"]
        _know(inner, FIELDS)
        if inner["type"] not in ("model-fields", "dataclass-args"):
            raise Unknown
    if set(schema.get("config", {})) - {"title"}:
        raise Unknown
    fields = inner["fields"]
    named = fields if isinstance(fields, dict) else {field["name"]: field for field in fields}
    for field in named.values():
        _know(field, FIELD)
    # One that is missing may have a default, one too many may be no text: both are pydantic's.
    struct = msgspec.defstruct(
        "Fields",
        [(name, _type(field["schema"])) for name, field in named.items()],
        forbid_unknown_fields=True, kw_only=True, gc=False,
    )  # fmt: skip
    decode, as_dict = msgspec.json.Decoder(struct).decode, msgspec.structs.asdict
    if schema["type"] == "typed-dict":
        return lambda body: as_dict(decode(body))
    cls = schema["cls"]
    if cls.__new__ is not object.__new__:
        raise Unknown
    if schema["type"] == "dataclass":
        return lambda body: _dataclass(cls, as_dict(decode(body)))
    return lambda body: _model(cls, as_dict(decode(body)))


def _dataclass(cls: Any, values: dict[str, Any]) -> Any:
    made = object.__new__(cls)
    object.__setattr__(made, "__dict__", values)
    return made


def _model(cls: Any, values: dict[str, Any]) -> Any:
    """As `model_construct` does it, in half the time: there is no default or alias to see to."""
    made, put = object.__new__(cls), object.__setattr__
    put(made, "__dict__", values)
    put(made, "__pydantic_fields_set__", set(values))
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made


def _type(schema: Mapping[str, Any]) -> Any:
    """The type of msgspec's that has the values of `schema`; Unknown where there is none."""
    kind = schema["type"]
    if kind == "bool" or kind == "str":
        _know(schema, {"strict"})
        return bool if kind == "bool" else str
    if kind == "float" or kind == "int":
        _know(schema, {"strict", "allow_inf_nan", *LIMITS})
        return _limited(float if kind == "float" else int, schema, LIMITS)
    if kind == "list":
        _know(schema, {"strict", "fail_fast", "items_schema", *LENGTHS})
        return _limited(list[_type(schema["items_schema"])], schema, LENGTHS)  # type: ignore[misc]
    if kind == "dict":
        _know(schema, {"strict", "keys_schema", "values_schema"})
        if schema["keys_schema"] != {"type": "str"}:
            raise Unknown
        return dict[str, _type(schema["values_schema"])]  # type: ignore[misc]
    if kind == "nullable":
        _know(schema, {"schema"})
        return _type(schema["schema"]) | None
    if kind == "default":  # one that is missing, pydantic adds
        _know(schema, {"schema", "default", "default_factory", "default_factory_takes_data"})
        return _type(schema["schema"])
    raise Unknown


def _limited(kind: Any, schema: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    limits = {ours: schema[name] for name, ours in names.items() if schema.get(name) is not None}
    if not all(type(limit) in (int, float) for limit in limits.values()):
        raise Unknown
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind


def _know(schema: Mapping[str, Any], known: Collection[str]) -> None:
    """Unknown where `schema` says more than is `known`, or something that is not as usual."""
    for name, value in schema.items():
        if name not in known and name not in SILENT:
            raise Unknown
        if name in PLAIN and value != PLAIN[name]:
            raise Unknown
