"""How is each hook of a model called?

Looks at a model once, after it is made, and says of every hook whether it is plain, async or
a generator, and whether it wants the context. Defaults are None here, so that what a model
leaves out costs nothing. Refuses to run anything.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from instance.api import Endpoint, type_hints

log = logging.getLogger("instance")
BASES = ("ModelAPI.", "LitAPI.")
FORMS = {
    "decode_request": "decode_request(request)", "batch": "batch(inputs)",
    "predict": "predict(x)", "unbatch": "unbatch(output)",
    "encode_response": "encode_response(output)",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook: what to call, and how."""

    call: Callable[..., Any]
    wants_context: bool
    is_async: bool
    is_generator: bool

    def __call__(self, value: Any, context: Any) -> Any:
        if self.wants_context:
            return self.call(value, context=context)
        return self.call(value)


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one model; None where the default is used."""

    predict: Hook
    decode: Hook | None
    batch: Hook | None
    unbatch: Hook | None
    encode: Hook | None
    stream: bool
    max_batch_size: int
    request_type: Any  # annotation of one request, inspect.Parameter.empty if there is none
    answer_type: Any

    @property
    def is_async(self) -> bool:
        hooks = (self.predict, self.decode, self.batch, self.unbatch, self.encode)
        return any(hook.is_async for hook in hooks if hook is not None)

    @property
    def wants_context(self) -> bool:
        hooks = (self.predict, self.decode, self.batch, self.unbatch, self.encode)
        return any(hook.wants_context for hook in hooks if hook is not None)


def hooks_of(api: Any) -> Hooks:
    """The hooks of `api`; ValueError, in one line, when they do not fit together."""
    stream = bool(getattr(api, "stream", False))
    predict = _hook(api, "predict")
    assert predict is not None
    encode = _hook(api, "encode_response")
    if not stream and (predict.is_generator or (encode is not None and encode.is_generator)):
        raise ValueError("predict or encode_response is a generator but stream is not set")
    encodes_plainly = encode is not None and encode.is_generator and not encode.is_async
    if stream and encodes_plainly and predict.is_generator and predict.is_async:
        raise ValueError("predict is an async generator, so encode_response must be one too")
    _check_arguments(api.setup, "setup(device)")
    request_type, answer_type = _types(api)
    return Hooks(
        predict=predict,
        decode=_hook(api, "decode_request"),
        batch=_hook(api, "batch"),
        unbatch=_hook(api, "unbatch"),
        encode=encode,
        stream=stream,
        max_batch_size=_batch_size(api),
        request_type=request_type,
        answer_type=answer_type,
    )


def _hook(api: Any, name: str) -> Hook | None:
    call = getattr(api, name, None)
    if call is None or not callable(call):
        return None
    inner = inspect.unwrap(getattr(call, "__func__", call))
    if name != "predict" and getattr(inner, "__qualname__", "").startswith(BASES):
        return None
    try:
        wants_context = "context" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        wants_context = False
    _check_arguments(call, FORMS[name], **({"context": None} if wants_context else {}))
    is_async_generator = inspect.isasyncgenfunction(inner)
    return Hook(
        call=call,
        wants_context=wants_context,
        is_async=inspect.iscoroutinefunction(inner) or is_async_generator,
        is_generator=inspect.isgeneratorfunction(inner) or is_async_generator,
    )


def codes_of(api: Any) -> dict[CodeType, str]:
    """The names of the hooks of `api` by their code, by which a traceback tells where it was."""
    found: dict[CodeType, str] = {}
    for name in (*FORMS, "setup", "health", "teardown"):
        call = getattr(api, name, None)
        if callable(call):
            code = getattr(inspect.unwrap(getattr(call, "__func__", call)), "__code__", None)
            if isinstance(code, CodeType):
                found[code] = name
    return found


def _check_arguments(call: Callable[..., Any], form: str, **named: Any) -> None:
    """ValueError when `call` cannot be called as `form` says."""
    try:
        # As it is, not what it stands around: a decorator may hand on more than it gets.
        signature = inspect.signature(call, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, **named)
    except TypeError as error:
        raise ValueError(f"{form} cannot be called with its one argument: {error}") from None


def _batch_size(api: Any) -> int:
    size = getattr(api, "max_batch_size", 1) or 1
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"max_batch_size must be a whole number of at least 1, not {size!r}")
    return int(size)


def _types(api: Any) -> tuple[Any, Any]:
    """(annotation of one request, annotation of one answer)."""
    if isinstance(api, Endpoint):
        return api.annotations()
    empty = inspect.Parameter.empty
    request: Any = empty
    answer: Any = empty
    decode = getattr(api, "decode_request", None)
    if decode is not None:
        parameters = list(inspect.signature(decode).parameters)
        if parameters:
            request = type_hints(decode).get(parameters[0], empty)
    encode = getattr(api, "encode_response", None)
    if encode is not None:
        answer = type_hints(encode).get("return", empty)
        said = inspect.signature(encode).return_annotation
        if answer is empty and isinstance(said, str):
            log.warning("encode_response says %s, which cannot be found: answers not checked", said)
    return (empty if request is Any else request), (empty if answer is Any else answer)
