"""Which errors are there, and what is to be done? `docs/errors.md`, from the codes in the code."""

from collections.abc import Mapping
from typing import Protocol

from gateway.controlplane.admin.problems import KINDS as ADMIN
from gateway.core.errors import KINDS as GATEWAY
from instance.core.errors import KINDS as INSTANCE

_INTRO = """# Errors

<!-- Rendered by `python -m docs.manual`; a test compares. -->

Every error that Headgate makes itself is `application/problem+json` (RFC 9457):

```json
{"type": "about:blank", "title": "The queue is full", "status": 503,
 "detail": "The backend's queue is full (queue.size), or its wait too long (queue.timeout).",
 "code": "queue_full", "request_id": "91df788214b6a1ec1b021b115b68ddc4"}
```

`code` is for programs and never changes its meaning, `detail` is for people, and `request_id` finds
the request in the [access log](observability.md#the-access-log).

Who made it? The header `X-Headgate-Error` names the code where it was **the gateway**; without that
header the answer came from **the instance**, with whatever status and body, and the gateway passed
it on. With `Retry-After` the same request may succeed later; without, the same request fails again.
Below OpenAI's paths a gateway's error has [what official clients show](openai.md) as well.

"""

_HEAD = "| code | status | it means | what to do |\n|---|---|---|---|"

# When, and what to do about it. Code, status and title are the code's own.
OF_THE_GATEWAY = {
    "bad_request": (
        "no valid HTTP/1.1, a Host or path that is none, or an override for a backend that the "
        "route lacks",
        "`detail` names the fault",
    ),
    "unauthorized": (
        "the route asks for a key, and none came or none that is known",
        "send `Authorization: Bearer KEY` ([keys](opening-to-others.md#keys))",
    ),
    "forbidden": ("the key has expired or does not open this route", "`headgate keys` says which"),
    "no_route": (
        "no route has this path, host and header",
        "`headgate routes`; routes match whole path segments",
    ),
    "method_not_allowed": ("a route has the path, with other methods", "`Allow` lists them"),
    "request_timeout": (
        "the client took too long to send its head or body",
        "`head_timeout` and `body_idle` of `gateway`",
    ),
    "body_too_large": ("larger than the route takes", "`max_body` of the route"),
    "uri_too_long": ("longer than the gateway takes", "`gateway.max_target`"),
    "expectation_failed": ("`Expect` with anything but `100-continue`", "leave it out"),
    "rate_limited": (
        "more than the limits of the key or the route",
        "wait for `Retry-After`, or raise the [limits](opening-to-others.md#limits)",
    ),
    "head_too_large": (
        "too many header fields, or too long",
        "`gateway.max_head`, `gateway.max_headers`",
    ),
    "internal": ("a fault of the gateway", "report it with the traceback in the log"),
    "connect_failed": (
        "no instance took the connection, after another attempt where the budget allowed one",
        "`headgate status`: is it running, at that address?",
    ),
    "upstream_broke": (
        "the instance closed the connection before its answer was there, or spoke no HTTP",
        "`headgate logs BACKEND`: did the process die?",
    ),
    "no_backend": (
        "no instance of the backend can serve, nor of those that may take its place",
        "`headgate status` says of each why: down, ejected, draining, disabled",
    ),
    "no_weight": (
        "every backend of the split has weight 0",
        "`headgate weights ROUTE BACKEND=1`",
    ),
    "queue_full": (
        "the queue has no room, or waiting in it would take longer than allowed",
        "more instances, or `queue` of the [backend](configuration.md#queue-of-a-backend)",
    ),
    "overloaded": (
        "the gateway may hold no more memory for this request",
        "fewer requests at once whose body chooses the route",
    ),
    "queue_timeout": (
        "waited for an instance as long as `queue.timeout`",
        "more instances, or a longer `queue.timeout`",
    ),
    "draining": ("this worker is shutting down", "ask again: another one answers"),
    "store_lost": (
        "`store_lost: refuse`, and etcd no longer knows of this gateway",
        "ask another gateway; `headgate status` says why the lease is lost",
    ),
    "response_timeout": (
        "no answer within `timeouts.response`, or no more of it within `timeouts.idle`",
        "a quicker model, or longer [timeouts](configuration.md#timeouts-of-a-backend)",
    ),
    "deadline": (
        "the route's `deadline` or the client's `X-Request-Timeout` passed",
        "`detail` says which",
    ),
    "loop_detected": (
        "a backend leads back to this gateway",
        "correct `instances`; gateways in a row need different `node` names",
    ),
}

OF_THE_ADMIN_API = {
    "bad_request": ("a query or header that cannot be", "`detail` names it"),
    "not_json": ("the body is no JSON (for `apply`: no YAML)", "`detail` has line and column"),
    "invalid": ("the edit cannot be", "`errors` names every fault with its place"),
    "unauthorized": ("no token, or a wrong one", "`headgate token` on the gateway's machine"),
    "forbidden": (
        "a viewer's token may not edit; or a foreign `Host` or `Origin`",
        "the operator's token; `admin_hosts` of `gateway`",
    ),
    "not_found": ("no route, backend, instance, key or revision of that name", "check the name"),
    "method_not_allowed": ("the path has other methods", "`Allow` lists them"),
    "conflict": (
        "the edit contradicts what is there: a backend in use, a split under a rollout",
        "`detail` says what has to go first",
    ),
    "precondition_failed": (
        "somebody else changed it since you read it (`If-Match`)",
        "`current` is what is there now: look again, then edit",
    ),
    "body_too_large": ("an edit larger than the gateway takes", "`gateway.max_edit`"),
    "unsupported_media_type": ("neither JSON nor, for `apply`, YAML", "set `Content-Type`"),
    "precondition_required": (
        "`gateway.require_if_match` is on and the write has no `If-Match`",
        "send the `ETag` that the read gave",
    ),
    "too_many_failures": (
        "twenty wrong tokens a minute from this address",
        "wait for `Retry-After`, then use the right one",
    ),
    "internal": ("a fault of the control process", "report it with the traceback in the log"),
    "store_failed": (
        "the state directory could not be written; nothing was changed",
        "the log says why: rights, a read-only or failing disk",
    ),
    "not_ready": ("the control process is starting", "ask again"),
    "not_in_force": (
        "the edit is on disk, and a worker has not confirmed it",
        "`headgate status`; it holds once the worker is replaced",
    ),
    "store_full": ("the disk is full; nothing was changed", "make room, then edit again"),
    "store_unavailable": (
        "etcd, which several gateways share, cannot be reached, or does not let this gateway in:"
        " nothing was changed",
        "send the edit again once etcd is back, or the user and password are right; requests are"
        " served meanwhile",
    ),
}

OF_AN_INSTANCE = {
    "bad_request": ("malformed HTTP, or a body that is no JSON", "`detail` names the fault"),
    "unauthorized": ("the model's `authorize` refused", "what the model asks for"),
    "forbidden": ("the model's `authorize` refused", "what the model asks for"),
    "not_found": ("the instance has no such path", "`/info` of the instance names its path"),
    "method_not_allowed": ("predictions are POST", "`Allow` lists the methods"),
    "request_timeout": ("the request did not come in time", "send it at once"),
    "body_too_large": ("larger than the instance takes", "`--max-body`"),
    "unsupported_media_type": (
        "a media type that the hooks do not take",
        "set `Content-Type`, mostly to `application/json`",
    ),
    "expectation_failed": ("`Expect` with anything but `100-continue`", "leave it out"),
    "invalid_request": (
        "the body does not fit what the model's annotations say",
        "`errors` names each field",
    ),
    "refused": ("the model itself refused the request", "`detail` is the model's own"),
    "head_too_large": ("the head is larger than the instance takes", "fewer or shorter headers"),
    "model_error": (
        "a hook of the model failed",
        "the traceback is in `headgate logs BACKEND`, under the request's id",
    ),
    "queue_full": (
        "more requests wait than the model can take in time",
        "more instances, `--max-queue`, or `--max-wait`",
    ),
    "not_ready": ("the model is loading, or keeps failing to", "`headgate logs BACKEND`"),
    "deadline": (
        "the client would not wait as long as the model needs, or `--timeout` passed",
        "a quicker model, or more time",
    ),
}

_FAULTS = """
A body with the code `invalid` names all faults of an edit at once, each as
`{"pointer": "/backends/digits/queue/size", "code": "type", "detail": "…"}`: where it is, what it is
in a word, and in a sentence, with what was probably meant. `headgate check FILE` says the same of a
file, with lines.
"""

_EXITS = """
## Exit codes of commands

| code | it means |
|---|---|
| 0 | done |
| 1 | refused: one line on standard error says what and how to mend it |
| 2 | wrong usage: an option or argument that is not there |
| 3 | a [rollout](rollouts.md) went back |

Besides: a request whose client left before its answer is 499 in the access log and the metrics;
nobody is sent it. What else `reason` may say there is in [Metrics](metrics.md).
"""


class Kind(Protocol):
    """What the three tables of codes have in common."""

    @property
    def status(self) -> int: ...
    @property
    def title(self) -> str: ...


def errors_page() -> str:
    """`docs/errors.md`, whole."""
    parts = [
        _INTRO + "## From the gateway\n",
        _table(GATEWAY, OF_THE_GATEWAY),
        "\n## From an instance\n\nThrough the gateway they come as they are, without "
        "`X-Headgate-Error`. What the model raises with a status of its own keeps it.\n",
        _table(INSTANCE, OF_AN_INSTANCE),
        "\n## From the admin API\n",
        _table(ADMIN, OF_THE_ADMIN_API),
    ]
    return "\n".join(parts) + "\n" + _FAULTS + _EXITS


def _table(kinds: Mapping[str, Kind], told: Mapping[str, tuple[str, str]]) -> str:
    """A row per code; a code that is told of and not there, or the other way round, fails."""
    assert kinds.keys() == told.keys(), kinds.keys() ^ told.keys()
    rows = [_HEAD]
    for code, kind in kinds.items():
        when, remedy = told[code]
        rows.append(f"| `{code}` | {kind.status} | **{kind.title}**: {when} | {remedy} |")
    return "\n".join(rows)
