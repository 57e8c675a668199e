"""What do clients of OpenAI's API expect of a gateway itself?

That its errors hold an `error` object, and that `GET /v1/models` lists what can be asked for: the
models by which routes tell requests apart. What instances answer is theirs, and never seen here.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from gateway.core.entries import Match
from gateway.core.errors import Kind
from gateway.core.targets import normalise_host

MODELS: Final = b"/v1/models"
LISTED_BY: Final = ("GET", "HEAD")  # methods
_FIELD: Final = "model"
_OWNER: Final = "headgate"
_below = re.compile(
    rb"[^?]*/v1/(?:audio|batches|chat|completions|conversations|embeddings|files|fine_tuning"
    rb"|images|models|moderations|realtime|rerank|responses|score|uploads|vector_stores)(?:[/?]|$)"
).match
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Model(NamedTuple):
    """A model by its name in requests, and a route that leads to it."""

    name: str
    route: str
    match: Match


class Listing(NamedTuple):
    """What `GET /v1/models` may show; `wanted` is the one that is asked for, "" for all."""

    models: tuple[Model, ...]
    wanted: str


def is_openai(target: bytes) -> bool:
    """Whether a client of OpenAI's API asks for `target`, below any prefix."""
    return b"/v1/" in target and _below(target) is not None


def error_object(kind: Kind, detail: str) -> dict[str, str | None]:
    """The `error` of an answer, as official clients read it."""
    usual = "server_error" if kind.status >= 500 else "invalid_request_error"
    return {
        "message": detail,
        "type": _TYPES.get(kind.status, usual),
        "param": None,
        "code": kind.code,
    }


def models_of(routes: Iterable[tuple[str, Match]]) -> tuple[Model, ...]:
    """The models that these routes, by name, tell requests apart by; in their order."""
    return tuple(
        Model(value, name, match)
        for name, match in routes
        for field, value in match.json
        if field == _FIELD and isinstance(value, str) and value
    )


def listing(
    models: Iterable[Model], path: str, host: str, header: Callable[[str], str | None] | None
) -> Listing | None:
    """What of `models` a GET of `path` may show; None if it asks for no list of any. A list shows
    what the same client could ask for at its base; `host` and `header` as in `matching`, or None
    for whatever headers there are."""
    base, _, rest = path.partition(MODELS.decode())
    if rest and (rest[0] != "/" or rest == "/"):
        return None
    base += "/v1"
    found = tuple(each for each in models if _is_near(each.match, base, host, header))
    return Listing(found, rest[1:]) if found else None


def as_list(names: Iterable[str]) -> dict[str, Any]:
    """The answer to `GET /v1/models`."""
    return {"object": "list", "data": [as_model(name) for name in names]}


def as_model(name: str) -> dict[str, Any]:
    """The answer to `GET /v1/models/NAME`. Nobody knows when a model was made."""
    return {"id": name, "object": "model", "created": 0, "owned_by": _OWNER}


def _is_near(
    match: Match, base: str, host: str, header: Callable[[str], str | None] | None
) -> bool:
    """Whether a request below `base` may meet `match`."""
    path = match.path.removesuffix("/")
    is_below = f"{path}/".startswith(f"{base}/")
    if not is_below and (match.exact or not f"{base}/".startswith(f"{path}/")):
        return False
    if match.hosts and not any(_is_host(each, host) for each in match.hosts):
        return False
    return header is None or all(header(name.lower()) == value for name, value in match.headers)


def _is_host(said: str, host: str) -> bool:
    if said.startswith("*."):
        return host.endswith(f".{normalise_host(said[2:])}")
    return host == normalise_host(said)
