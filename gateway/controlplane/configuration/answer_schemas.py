"""What may people write of CORS, header rules and compression at a route?

Part of `schemas`; what each means is `gateway.core.cors`, `header_rules` and `compressing`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidatorFunctionWrapHandler,
    WrapSerializer,
    WrapValidator,
    model_validator,
)
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import (
    HeaderName,
    HeaderValue,
    Method,
    Pause,
    Size,
    Spec,
    fault,
    optional,
)
from gateway.core.cors import ANY, ORIGIN, WITH_CREDENTIALS, origin_fault
from gateway.core.header_rules import name_fault, repeated


def _origin(text: str) -> str:
    if (wrong := origin_fault(text)) is not None:
        raise fault("origin", f"{text!r} {wrong}")
    return text


_SHOWN_ORIGIN = {
    "anyOf": [{"const": ANY}, {"type": "string", "pattern": ORIGIN}],
    "examples": ["https://app.example.com"],
}
Origin = Annotated[str, AfterValidator(_origin), Shown(_SHOWN_ORIGIN)]


class CorsSpec(Spec):
    """Which web pages of other origins may ask. Preflights are answered by the gateway."""

    origins: list[Origin] = Field(
        description="https://app.example.com, https://*.example.com (every name below), or `*`.",
        min_length=1,
    )
    headers: list[HeaderName] = optional(
        "Request headers that a page may set ([Authorization, Content-Type, X-API-Key]); `*`: any."
    )
    methods: list[Method] = optional(
        "Methods that a page may use; left out: those of `match`, or GET, HEAD, POST, PUT, PATCH"
        " and DELETE.",
        min_length=1,
    )
    expose: list[HeaderName] = optional("Headers of an answer that a page may read (none).")
    credentials: bool = optional("Whether pages may have cookies sent with it (false).")
    max_age: Pause = optional(
        "How long a browser need not ask again; left out: as browsers have it."
    )

    @model_validator(mode="after")
    def _is_taken_by_browsers(self) -> "CorsSpec":
        named = (*self.origins, *(self.headers or ()), *(self.expose or ()))
        if self.credentials and ANY in named:
            raise fault("credentials", WITH_CREDENTIALS)
        return self


def _rule_name(text: str) -> str:
    if (wrong := name_fault(text)) is not None:
        raise fault("header_name", wrong)
    return text


RuleName = Annotated[HeaderName, AfterValidator(_rule_name)]


class RulesSpec(Spec):
    """What is done to the headers of one direction."""

    set: dict[RuleName, HeaderValue] = optional("Name → value, in place of what there is.")
    add: dict[RuleName, HeaderValue] = optional("Name → value, beside what there is.")
    remove: list[RuleName] = optional("Names of headers that are taken away.")

    @model_validator(mode="after")
    def _says_each_once(self) -> "RulesSpec":
        twice = repeated(self.set or (), self.remove or ())
        if twice is not None:
            raise fault("duplicate", f"{twice} stands there twice in set and remove")
        return self


class HeaderRulesSpec(Spec):
    """Headers that are changed on the way."""

    request: RulesSpec = optional("Of requests, before an instance gets them.")
    response: RulesSpec = optional("Of answers, before the client gets them.")


class CompressSpec(Spec):
    """Which answers are compressed, with gzip or zstd as the client takes it."""

    min: Size = optional("Shorter ones are not (1KiB).")
    events: bool = optional("Whether streams of events (text/event-stream) are too (false).")


def _switched(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A switch, or what `read` makes of more; a union would name its own members in faults."""
    if type(value) is bool:
        return read({}) if value else value
    if not isinstance(value, Mapping | CompressSpec):
        raise fault("type", "must be true, false or a mapping like {min: 1KiB}")
    return read(value)


def _shown(value: Any, show: SerializerFunctionWrapHandler) -> Any:
    return show(value) if value else value


Compression = Annotated[
    CompressSpec,
    WrapValidator(_switched, json_schema_input_type=bool | CompressSpec),
    WrapSerializer(_shown),
]
