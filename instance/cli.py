"""How is an instance started from a command line?"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from instance.app import run
from instance.engine.devices import parse_devices
from instance.settings import Settings, parse_duration, parse_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves one model; exit code 0 after an orderly stop, 1 if it cannot start, 2 for
    wrong usage."""
    given = vars(_parser().parse_args(arguments))
    devices = tuple(
        device for part in given.pop("devices") or ["auto"] for device in part.split(",")
    )
    return run(Settings(devices=devices, **{k: v for k, v in given.items() if v is not None}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headgate instance",
        description="Serve one model on one port.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="package.module:Name or path/to/file.py:Name")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=_checked(_port), help="port to listen on, 0 for any (8000)")
    add("--path", type=_checked(_path), help="the path clients post to")
    add(
        "--device",
        dest="devices",
        action="append",
        type=_checked(_devices),
        metavar="DEVICE",
        help="cpu, cuda:N, mps or auto; several give a worker each",
    )
    add("--workers", type=_checked(_positive), help="worker processes per device (1)")
    add("--threads", type=_checked(_positive), help="CPU threads per worker")
    add("--max-batch-size", type=_checked(_positive), help="most requests per predict")
    add(
        "--batch-timeout",
        dest="batch_timeout_s",
        type=_checked(parse_duration),
        metavar="DURATION",
        help="longest wait for company",
    )
    add("--max-queue", type=_checked(_positive), help="most requests that may wait")
    add(
        "--timeout",
        dest="timeout_s",
        type=_checked(parse_duration),
        metavar="DURATION",
        help="longest one predict may take (120s)",
    )
    add(
        "--target-latency",
        dest="target_latency_s",
        type=_checked(parse_duration),
        metavar="DURATION",
        help="keep batches small enough for this",
    )
    add("--max-body", type=_checked(parse_size), metavar="SIZE", help="largest body (64MiB)")
    add(
        "--weights-only",
        action="store_true",
        help="torch.load reads tensors and nothing else, even if the model asks it to",
    )
    add("--stream", action=argparse.BooleanOptionalAction, help="send answers item by item")
    add(
        "--drain",
        dest="drain_s",
        type=_checked(parse_duration),
        metavar="DURATION",
        help="longest wait for accepted requests at the end (30s)",
    )
    return parser  # fmt: skip


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` with argparse's own error, so that its message reaches the user."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError(f"{text!r} is no port; use 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} must start with /")
    return text


def _devices(text: str) -> str:
    parse_devices(text)
    return text
