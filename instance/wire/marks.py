"""Marks: which requests a worker had turned to when it died, and how much of its log was lost.

Numbers in memory that the worker and the HTTP process map, so that they outlive the one
that wrote them: what was never begun may be run by another worker, and nothing else may. On
systems without such memory nothing is known. Refuses to know what a request is.
"""

import mmap
from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

BEGUN = 0  # the request begun last; those sent before it were begun before it
DECODED = 1  # the one that is being decoded ahead of its turn, or 0
DROPPED = 2  # lines of the worker's log that nobody read in time

Marks: TypeAlias = "memoryview[int] | list[int]"


class Sent(Protocol):
    """What must be known of a request."""

    id: int


J = TypeVar("J", bound=Sent)


def mapped(file: int) -> Marks:
    """The marks in `file`, which is closed by whoever opened it."""
    return memoryview(mmap.mmap(file, mmap.PAGESIZE)).cast("q")


def divide(batches: Sequence[Sequence[J]], marks: Sequence[int]) -> list[tuple[list[J], list[J]]]:
    """Of each batch, in the order they were sent: (those begun, those that were not)."""
    ids = [job.id for batch in batches for job in batch]
    left = ids.index(marks[BEGUN]) + 1 if marks[BEGUN] in ids else 0
    divided = []
    for batch in batches:
        begun = [job for i, job in enumerate(batch) if i < left or job.id == marks[DECODED]]
        divided.append((begun, [job for job in batch if job not in begun]))
        left -= len(batch)
    return divided
