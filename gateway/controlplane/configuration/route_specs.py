"""What may people write about routes: what a client asks for, and which backends answer it?

Part of `schemas`; what each means is `gateway.core.entries`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.answer_schemas import Compression, CorsSpec, HeaderRulesSpec
from gateway.controlplane.configuration.comparing import CompareSpec
from gateway.controlplane.configuration.fields import (
    Duration,
    HeaderName,
    HeaderValue,
    Host,
    JsonScalar,
    MatchPath,
    Method,
    Name,
    Path,
    Size,
    Spec,
    fault,
    one_of,
    only,
    optional,
)
from gateway.controlplane.configuration.limit_specs import LimitsSpec
from gateway.core.entries import ACCESS, MAX_WEIGHT, RETRY_REASONS, is_retry_reason


def _weight(value: Any) -> Any:
    if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
        raise fault("weight", f"must be a whole number from 0 to {MAX_WEIGHT:,}")
    return value


_SHOWN_WEIGHT = {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT}
Weight = Annotated[Any, AfterValidator(_weight), Shown(_SHOWN_WEIGHT)]


class MatchSpec(Spec):
    """What a client must ask for. All conditions hold; the most specific route wins."""

    path: MatchPath = optional("A prefix of whole path segments.")
    exact: MatchPath = optional("The whole path; instead of `path`.")
    hosts: list[Host] = optional("Any of these; `*.example.com` is every name below.", min_length=1)
    methods: list[Method] = optional("Any of these.", min_length=1)
    headers: dict[HeaderName, HeaderValue] = optional("Header fields with exactly these values.")
    json_fields: dict[str, JsonScalar] = optional(
        "Top-level fields of a JSON body with exactly these values; see `match_body`.", alias="json"
    )

    @model_validator(mode="after")
    def _has_one_path(self) -> "MatchSpec":
        if {"path", "exact"} <= self.model_fields_set:
            raise fault("one_of", "must have only one of path and exact")
        return self


def _expanded(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class StickySpec(Spec):
    """Where the key is read from that keeps a client with its backend."""

    header: HeaderName = optional("A request header.")
    cookie: HeaderName = optional("A cookie.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "StickySpec":
        one_of(dict.fromkeys(self.model_fields_set), "header", "cookie")
        return self


def _retry_reason(text: str) -> str:
    if not is_retry_reason(text):
        raise fault(
            "retry_reason", f'must be {", ".join(RETRY_REASONS)} or a status in quotes, like "503"'
        )
    return text


RetryReason = Annotated[
    str,
    AfterValidator(_retry_reason),
    Shown({"type": "string", "pattern": f"^({'|'.join(RETRY_REASONS)}|[45][0-9]{{2}})$"}),
]


class RetriesSpec(Spec):
    """When a request is tried again, on another instance, before any byte was answered."""

    attempts: int = optional("Tries in all, the first included (2).", ge=1, le=10)
    on: list[RetryReason] = optional("What is worth another try ([connect_failure, reset]).")
    retry_safe: bool = optional("Whether running a POST twice does no harm (false).")


class MirrorSpec(Spec):
    """A copy of requests, whose answers the client never sees."""

    backend: Name = Field(description="Who gets the copies.")
    percent: float = optional("How many of 100 requests are copied (100).", ge=0, le=100)
    compare: CompareSpec = optional("How its answers are compared; left out: they are dropped.")


def _on_unavailable(value: Any) -> Any:
    if isinstance(value, Mapping):
        if list(value) == ["fallback"] and isinstance(value["fallback"], str):
            return dict(value)
    elif value in ("redistribute", "fail"):
        return value
    raise fault("on_unavailable", "must be redistribute, fail or {fallback: BACKEND}")


OnUnavailable = Annotated[
    Any,
    AfterValidator(_on_unavailable),
    Shown({"anyOf": [{"enum": ["redistribute", "fail"]}, only("fallback", {"type": "string"})]}),
]


class RouteSpec(Spec):
    """What a client may ask for and which backends answer it, by weight."""

    match: Annotated[
        MatchSpec, BeforeValidator(_expanded, json_schema_input_type=MatchPath | MatchSpec)
    ] = Field(description="What a client asks for; a path alone is a prefix.")
    split: dict[Name, Weight] = Field(
        description=f"Backend → weight, a whole number from 0 to {MAX_WEIGHT:,}.", min_length=1
    )
    rewrite: Path = optional(
        "Replaces the matched path; left out: the path goes as it came, or to the model's own "
        "where `serve` starts it and the match leads elsewhere."
    )
    sticky: StickySpec = optional("Keeps a client with its backend.")
    retries: RetriesSpec = optional("When a request is tried again.")
    on_unavailable: OnUnavailable = optional(
        "What becomes of the share of a backend that cannot serve (redistribute)."
    )
    override: bool = optional(
        "Whether the header X-Headgate-Backend may choose the backend (false)."
    )
    mirror: MirrorSpec = optional("Copies requests to another backend.")
    max_body: Size = optional("Largest request body (64MiB).")
    deadline: Duration = optional("When an answer must be complete; left out: never.")
    access: Literal[ACCESS] = optional(  # type: ignore[valid-type]
        "Who may ask: `keys` (whoever has one of `keys`) or `open`; left out: keys, as soon as one"
        " is configured."
    )
    pass_credentials: bool = optional(
        "Whether instances get the header with the client's key (false)."
    )
    limits: LimitsSpec = optional("How much all who ask for it may together.")
    cors: CorsSpec = optional("Which web pages of other origins may ask.")
    headers: HeaderRulesSpec = optional(
        "Headers that are set, added and removed; none that frames a message or belongs to one"
        " connection."
    )
    compress: Compression = optional(
        "Whether JSON and text that instances leave plain is compressed for clients that take it"
        " (false)."
    )
