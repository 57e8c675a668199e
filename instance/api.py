"""What does a user write to have a model served?

A class with hooks, `ModelAPI` for those who like types and a place to read, or a function
under `@endpoint`. Nothing here is required: any class with the hooks will do. How hooks are
found and called is the engine's.
"""

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])


class ModelAPI(ABC):
    """The hooks of a model. Write `setup` and `predict`; override others as needed.

    Each hook may be a plain or an `async` method. `predict` and `encode_response` may be
    generators when `stream` is true. A hook that names an argument `context` gets the dict
    that all hooks of one request share (a list of them in batched hooks); its `.request` has
    headers, target and deadline.
    """

    max_batch_size: int = 1
    """Most requests computed in one call of `predict`; above 1 it gets batches."""

    batch_timeout: float = 0.0
    """Longest time to wait for more requests to fill a batch, in seconds from the oldest one's
    arrival; a lone client never waits."""

    api_path: str = "/predict"
    """The path that clients post to."""

    stream: bool = False
    """Whether answers are sent item by item."""

    example: Any = None
    """A request body as JSON value (or bytes): used to warm up and shown in the docs."""

    decode_ahead: bool | None = None
    """Whether `decode_request` and `batch` may run, in a second thread, for the next batch
    while `predict` computes one. None: on a CUDA device yes, elsewhere no."""

    request_timeout: float | None = None
    """Seconds a request may wait in the queue before it is answered 504; None: for ever."""

    callbacks: Sequence[Any] = ()
    """Objects with `on_before_predict(lit_api)`, `on_after_predict` and so on for `setup`,
    `decode_request` and `encode_response`."""

    loggers: Sequence[Any] = ()
    """Objects with `process(key, value)`, which get what `log` says."""

    _entries: Any = None

    def setup(self, device: str) -> Any:  # noqa: B027  (some models have nothing to load)
        """Loads the model onto `device` ("cpu", "cuda:0", "mps"); once per worker process."""

    def decode_request(self, request: Any) -> Any:
        """The model's input of one request.

        Annotate `request` with a pydantic model (or any type pydantic can validate) and it
        arrives validated; with `bytes` for the raw body; with `instance.Request` for all of
        it. Without an annotation it is the parsed JSON, a form's fields, or raw bytes.
        """
        return request

    def batch(self, inputs: Sequence[Any]) -> Any:
        """One batch of the decoded `inputs`: stacked if they are arrays or tensors."""
        from instance.model.stacking import stack

        return stack(inputs)

    @abstractmethod
    def predict(self, x: Any) -> Any:
        """The model's output for one input, or for a batch if `max_batch_size` is above 1."""

    def unbatch(self, output: Any) -> Any:
        """The outputs of a batch one by one, in the order of its inputs."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """The answer of one output: anything JSON can carry, bytes, pydantic models, numpy
        and torch values, or an `instance.Response`."""
        return output

    def health(self) -> bool:
        """Whether this model should get requests; asked once in a while."""
        return True

    def teardown(self) -> None:  # noqa: B027  (may be left out)
        """Called once when the worker process ends in order."""

    def log(self, key: str, value: Any) -> None:
        """Hands a pair to the `loggers`, without waiting for them; to the instance's log where
        there are none, a few in a second at most."""
        if self._entries is not None:
            self._entries.put((key, value))

    def set_logger_queue(self, queue: Any) -> None:
        """Called once, before `setup`: where `log` puts its pairs."""
        self._entries = queue


class Endpoint(Generic[F]):
    """A function served as a model: what `@endpoint` makes. Calling it calls the function."""

    def __init__(self, function: F, options: dict[str, Any]) -> None:
        self.function = function
        self.options = options
        self.max_batch_size: int = options.get("max_batch_size", 1)
        self.batch_timeout: float = options.get("batch_timeout", 0.0)
        self.api_path: str = options.get("api_path", "/predict")
        self.stream: bool = options.get("stream", False)
        self.example: Any = options.get("example")
        self.device = "cpu"
        self.predict = function
        self.__name__ = getattr(function, "__name__", "endpoint")
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def setup(self, device: str) -> None:
        self.device = device
        if (prepare := self.options.get("setup")) is not None:
            prepare(device)

    def annotations(self) -> tuple[Any, Any]:
        """(what one request is, what one answer is); `inspect.Parameter.empty` if not said.

        With batches the function takes a list and gives a list: the annotations are of
        their items then.
        """
        hints = type_hints(self.function)
        first = next(iter(inspect.signature(self.function).parameters), None)
        request = hints.get(first, inspect.Parameter.empty) if first else inspect.Parameter.empty
        answer = hints.get("return", inspect.Parameter.empty)
        if self.max_batch_size > 1:
            return _item(request), _item(answer)
        return request, answer


def _item(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (list, Sequence) and typing.get_args(annotation):
        return typing.get_args(annotation)[0]
    return inspect.Parameter.empty


def type_hints(function: Any) -> dict[str, Any]:
    """Annotations of `function`, resolved where they can be, none where they cannot."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # a name that only a type checker can see: as if not annotated
        return {
            name: value
            for name, value in getattr(function, "__annotations__", {}).items()
            if not isinstance(value, str)
        }


@overload
def endpoint(path: F, /) -> Endpoint[F]: ...


@overload
def endpoint(
    path: str = "/predict",
    /,
    *,
    max_batch_size: int = 1,
    batch_timeout: float = 0.0,
    stream: bool = False,
    example: Any = None,
    setup: Callable[[str], Any] | None = None,
) -> Callable[[F], Endpoint[F]]: ...


def endpoint(path: Any = "/predict", /, **options: Any) -> Any:
    """Serves the decorated function at `path`.

    With `max_batch_size` above 1 the function takes a list of inputs and gives a list of as
    many results. `batch_timeout` is in seconds. `setup(device)` runs once per worker.
    """
    if callable(path):
        return Endpoint(path, {})
    return lambda function: Endpoint(function, {"api_path": path, **options})
