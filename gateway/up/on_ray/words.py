"""In which words is told of a cluster and of what runs there?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict


class Told(TypedDict):
    """How the instance of a holder is: `address` is None until it has one, `since` is when its
    actor began (seconds since 1970). `number` counts the lines that it wrote, of which `lines` are
    the last ones. One that `leaves` is about to be ended."""

    address: str | None
    host: str
    gpus: list[int]
    since: float
    pid: int | None
    state: str
    served: bool
    leaves: bool
    restarts: int
    error: str | None
    number: int
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Seen:
    """How an actor is: `waiting` for a place, `there`, `away` while Ray starts it elsewhere, or
    `gone`. `told` is its last word."""

    state: Literal["waiting", "there", "away", "gone"]
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a cluster has in all, what of it is free, and what each host has in all."""

    total: Mapping[str, float]
    free: Mapping[str, float]
    hosts: tuple[Mapping[str, float], ...]
