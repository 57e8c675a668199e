"""Which places does a backend take in a cluster, and what is missing for one that has none?

A cluster's engine decides who is where. Here is what it is asked for, under which names its
instances are known, and in which words a person reads that there is no room.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.units import parse_size

GPU, CPU, MEMORY = "GPU", "CPU", "memory"  # as Ray calls them
GIB = 1 << 30
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Needs:
    """What one replica takes of its host: GPUs, CPUs, and bytes of memory."""

    gpus: int = 0
    cpus: int = 1
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """The name of one replica: of `backend`, at the version with this `digest`, started anew for
    the `turn`-th time, in the place with this `index`."""

    backend: str
    digest: str
    turn: int
    index: int

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.digest}.{self.turn}/{self.index}"


def needs(serve: Mapping[str, Any]) -> Needs:
    """What `serve` asks of a host for each replica."""
    said = serve.get("memory")
    memory = parse_size(str(said)) if said is not None and said != "auto" else 0
    return Needs(int(serve.get("gpus", 0)), int(serve.get("cpus", 1)), memory)


def digest(version: str) -> str:
    """A short name for `version`, the same wherever it is asked for."""
    return hashlib.sha256(version.encode()).hexdigest()[:_DIGITS]


def seat(backend: str, version: str, index: int) -> Seat:
    """The seat of one replica at `version`, which may end in `#` and how often it was renewed."""
    bare, _, turn = version.rpartition("#")
    return Seat(backend, digest(bare), int(turn), index)


def parse_seat(name: str) -> Seat | None:
    """The seat of that name; None where it is no replica's."""
    backend, _, rest = name.partition("/")
    version, _, index = rest.partition("/")
    short, _, turn = version.partition(".")
    if not (backend and short and turn.isdigit() and index.isdigit()):
        return None
    return Seat(backend, short, int(turn), int(index))


def free_index(taken: Iterable[int]) -> int:
    """The first number that is none of `taken`."""
    used = set(taken)
    return next(n for n in range(len(used) + 1) if n not in used)


def shortage(
    backend: str,
    asked: Needs,
    total: Mapping[str, float],
    free: Mapping[str, float],
    hosts: Sequence[Mapping[str, float]],
    ours: Mapping[str, float],
) -> tuple[str, bool]:
    """Why no replica of `backend` can be placed now, "" where there is room, and whether that is
    sure. `total` and `free` are the cluster's, `hosts` what each has in all, and `ours` what those
    have that run: what else is taken may be this one's already, which is about to start."""
    wanted = {GPU: asked.gpus, CPU: asked.cpus, MEMORY: asked.memory}
    for kind, count in wanted.items():
        here, left = total.get(kind, 0), free.get(kind, 0)
        if count and left < count:
            there = f"{_amount(kind, left)} of {_amount(kind, here)}"
            is_one = kind != MEMORY and left == 1
            words = (
                f"{backend} needs {_said(kind, count)}; {there} {'is' if is_one else 'are'} free"
            )
            return words, here < count or here - left - ours.get(kind, 0) < count
    if not any(all(host.get(kind, 0) >= n for kind, n in wanted.items()) for host in hosts):
        words = " and ".join(_said(kind, count) for kind, count in wanted.items() if count)
        return f"{backend} needs {words} on one host; no host has that", True
    return "", False


def taken(placed: Iterable[Needs]) -> dict[str, float]:
    """What all of these have together."""
    each = list(placed)
    return {
        GPU: sum(one.gpus for one in each),
        CPU: sum(one.cpus for one in each),
        MEMORY: sum(one.memory for one in each),
    }


def _amount(kind: str, count: float) -> str:
    return f"{count / GIB:.1f} GiB" if kind == MEMORY else f"{count:g}"


def _said(kind: str, count: float) -> str:
    if kind == MEMORY:
        return f"{_amount(kind, count)} of memory"
    return f"{count:g} {kind}{'' if count == 1 else 's'}"
