"""What the HTTP process and the processes of a model say to each other.

A message is a tuple of values that marshal carries, its kind first; large bodies lie beside it
(`instance.wire.frames`). Who sends is held to these shapes by mypy, and nothing is looked at
again when it comes: both ends are of one version.
"""

from collections.abc import Sequence
from typing import Any, Literal, Never, TypeAlias, TypedDict

Headers: TypeAlias = list[tuple[str, str]]
Placed: TypeAlias = bytes | int
"""A body, or its index among the blobs (`frames.place`)."""

PackedFault: TypeAlias = tuple[str, str, str]
PackedProblem: TypeAlias = tuple[int, str, Any, int, list[PackedFault], Headers, bool]
PackedReply: TypeAlias = tuple[int, str, Placed, Headers | None] | PackedProblem
"""An answer: status, media type, body and further headers. Or a problem: 0 and its fields."""


class StartOptions(TypedDict):
    """What a process is started with, as JSON in its first argument. Descriptors of the `lifeline`,
    the `socket`, the `arenas` (of requests, of answers) and the `marks`; how many `files` it may
    have; and what of `Settings` is the model's."""

    lifeline: int
    socket: int
    arenas: list[int | None]
    marks: int | None
    files: int
    model: str
    arguments: Sequence[str]
    api: int
    args: dict[str, Any]
    device: str
    threads: int
    attributes: dict[str, Any]


class ModelInfo(TypedDict):
    """What the HTTP process has to know of a model that it never sees; schemas and the example
    are JSON, empty where there is none."""

    name: str
    version: str
    doc: str | None
    device: str
    path: str
    spec: str
    max_batch_size: int
    batch_timeout_s: float
    request_timeout_s: float
    stream: bool
    is_async: bool
    prepares: bool
    concurrency: int
    wants_request: bool
    has_health: bool
    authorizes: bool
    tells: bool
    tracks_requests: bool
    api_key: str
    media_type: str
    request_schema: bytes
    answer_schema: bytes
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    example: bytes


# To whichever process. It ends, in order.
Stop: TypeAlias = tuple[Literal["stop"]]
# From whichever: why it can never serve.
Failed: TypeAlias = tuple[Literal["failed"], str]

# -- a worker

Meta: TypeAlias = tuple[str, str, str, Headers]
"""Method, path, query and headers, where hooks want to see them."""

PackedJob: TypeAlias = tuple[int, str, Placed, float, bool, Meta | None, str]
"""Id, content type, body, deadline, whether it wants server-sent events, the rest of the request,
and its id as its client knows it."""

# Of one id; computed together.
BatchMessage: TypeAlias = tuple[Literal["batch"], int, list[PackedJob]]
# The client of that job left.
Cancel: TypeAlias = tuple[Literal["cancel"], int]
# Of that job's stream its client took so many bytes.
Ack: TypeAlias = tuple[Literal["ack"], int, int]
# The room at that offset, of that size, in the arena of answers is free.
Left: TypeAlias = tuple[Literal["left"], int, int]
# Answered by `checked`.
Check: TypeAlias = tuple[Literal["check"]]

# What the model is, before it is set up; then that it is set up and warm.
Loaded: TypeAlias = tuple[Literal["loaded"], ModelInfo]
Ready: TypeAlias = tuple[Literal["ready"]]
# The batch of that id, what it took in seconds, and a reply for each job; none for streams.
Answers: TypeAlias = tuple[Literal["answers"], int, float, list[PackedReply]]
# Of that job's stream: its media type, one item, that it goes on without an item, its end, with a
# problem if there was one.
HeadMessage: TypeAlias = tuple[Literal["head"], int, str]
Item: TypeAlias = tuple[Literal["item"], int, Placed]
Sign: TypeAlias = tuple[Literal["sign"], int]
End: TypeAlias = tuple[Literal["end"], int, PackedReply | None]
# Whether it is well, and the memory of its GPU: bytes used, and in all (0: no GPU).
Checked: TypeAlias = tuple[Literal["checked"], bool, int, int]

ToWorker: TypeAlias = BatchMessage | Cancel | Ack | Left | Check | Stop
FromWorker: TypeAlias = (
    Loaded | Ready | Failed | Answers | HeadMessage | Item | Sign | End | Checked
)  # fmt: skip

# -- the process that authorizes

RequestHead: TypeAlias = tuple[str, str, str, Headers, tuple[str, int] | None, str]
"""Method, path, query, headers, client and scheme."""

# Of that question.
Ask: TypeAlias = tuple[Literal["ask"], int, RequestHead]
# The body of that question's request is the blob beside it; empty without one.
BodyMessage: TypeAlias = tuple[Literal["body"], int]
Forget: TypeAlias = tuple[Literal["forget"], int]
# With what OpenAPI says of its secrets, as JSON.
Open: TypeAlias = tuple[Literal["ready"], bytes]
# Of that question: why not, or None, with headers for the answer.
VerdictMessage: TypeAlias = tuple[Literal["verdict"], int, PackedReply | None, Headers]
# The body, for that question.
Want: TypeAlias = tuple[Literal["want"], int]

ToAuthorizer: TypeAlias = Ask | BodyMessage | Forget | Stop
FromAuthorizer: TypeAlias = Open | Failed | VerdictMessage | Want

# -- the process of the callbacks

# The callback's name, and its arguments.
Event: TypeAlias = tuple[Literal["event"], str, dict[str, Any]]
# One more event was told.
Seen: TypeAlias = tuple[Literal["seen"]]

ToNotifier: TypeAlias = Event | Stop
FromNotifier: TypeAlias = Ready | Failed | Seen

# -- the process that runs a file to see what it serves


class PlanRequest(TypedDict):
    """The file, its arguments, and the descriptors of the pipe to answer on and of the lifeline."""

    model: str
    arguments: list[str]
    answer: int
    lifeline: int


class PlannedApi(TypedDict):
    path: str
    workers: int


class PlanAnswer(TypedDict):
    """`settings` as `instance.settings.Settings` names them; `middlewares` from the outside in;
    `notices` for people; `failed` is why there is no plan, empty where there is one."""

    apis: list[PlannedApi]
    settings: dict[str, Any]
    middlewares: list[dict[str, Any]]
    api_key: str
    notices: list[str]
    failed: str


# -- the process that looks what there is to serve


class ListRequest(TypedDict):
    """`file.py` or `package.module`, with or without `:Name`; and the descriptor of the pipe to
    answer on."""

    model: str
    answer: int


class Offer(TypedDict):
    """What one instance would serve, empty for a file as it stands, and at which path."""

    name: str
    path: str


class Listed(TypedDict):
    """`failed` is why there is nothing, empty where there is something."""

    failed: str
    offers: list[Offer]


def no_plan(why: str) -> PlanAnswer:
    return PlanAnswer(apis=[], settings={}, middlewares=[], api_key="", notices=[], failed=why)


def pass_over(message: Never) -> None:
    """Does nothing with a message whose kind is not declared. In the place where nothing declared
    is left, so that mypy sees what is missed."""
