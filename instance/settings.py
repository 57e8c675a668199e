"""What can be set for an instance, from where, and what holds if nothing is said?

Options of the command line win over attributes of the model's class, which win over the
defaults here. None means: as the class says.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB|)")
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MIN_QUEUE = 64  # a smaller default would refuse ordinary bursts at models without batches


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an instance is started with."""

    model: str
    """`package.module:Name` or `path/to/file.py:Name`."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any free port; the log says which."""

    devices: tuple[str, ...] = ("auto",)
    """One worker process for each: `cpu`, `cuda:N`, `mps`, `auto`."""

    workers: int = 1
    """Worker processes per device."""

    threads: int = 0
    """CPU threads per worker for torch and BLAS; 0: the cores divided by the workers."""

    path: str | None = None
    max_batch_size: int | None = None
    batch_timeout_s: float | None = None
    stream: bool | None = None

    max_queue: int | None = None
    """Requests that may wait; by default twice the batch size, and at least MIN_QUEUE."""

    timeout_s: float = 120.0
    """Longest one predict, or one item of a stream, may take; then its worker is replaced.
    0: for ever."""

    target_latency_s: float = 0.0
    """If set, batches are kept as small as a predict of at most this long needs."""

    max_body: int = 64 << 20
    """Bytes of a request body."""

    weights_only: bool = False
    """Whether `torch.load` reads tensors and nothing else, whatever the model asks it for."""

    keep_alive_s: float = 90.0
    """An idle connection is closed after this; longer than the gateway keeps its own."""

    drain_s: float = 30.0
    """After SIGTERM, the longest wait for accepted requests."""

    def attributes(self) -> dict[str, Any]:
        """What to set on the model in place of its class's own attributes."""
        given = {
            "api_path": self.path,
            "max_batch_size": self.max_batch_size,
            "batch_timeout": self.batch_timeout_s,
            "stream": self.stream,
        }
        return {name: value for name, value in given.items() if value is not None}

    def worker_devices(self) -> tuple[str, ...]:
        """One device per worker process."""
        return tuple(device for device in self.devices for _ in range(self.workers))

    def worker_threads(self) -> int:
        """CPU threads per worker."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.threads or max(1, (cores or 1) // len(self.worker_devices()))

    def queue_size(self, max_batch_size: int) -> int:
        if self.max_queue is not None:
            return self.max_queue
        return max(2 * max_batch_size * len(self.worker_devices()), MIN_QUEUE)


def parse_duration(text: str) -> float:
    """Seconds in `2ms`, `0.5s`, `1m` or a bare number of seconds; ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 2ms, 1.5s or 1m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes in `64KiB`, `64MiB` or a bare number; ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write it like 64KiB or 64MiB")
    return int(match[1]) * _BYTES[match[2]]
