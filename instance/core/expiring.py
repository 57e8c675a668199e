"""Whose deadline has passed? To ask costs no more than what has expired.

A heap of deadlines out of which anything may leave before its time. Pure: time is an argument.
"""

import heapq
from typing import Generic, TypeAlias, TypeVar

J = TypeVar("J")
SPARE = 64  # empty places that are not worth making the heap anew


Place: TypeAlias = list[J | None]  # where one job stands; None in it once it has left


class Expiring(Generic[J]):
    """Jobs by their deadlines, the earliest first. One that leaves is let go at once; its empty
    place goes when it comes to the top, or when most places are empty."""

    __slots__ = ("_empty", "_heap", "_number")

    def __init__(self) -> None:
        # (deadline, a number that no other has, place): compared without a line of Python.
        self._heap: list[tuple[float, int, Place[J]]] = []
        self._empty = 0
        self._number = 0

    def add(self, deadline: float, job: J) -> Place[J]:
        """The place of `job`, to be given back to `leave`."""
        self._number += 1
        place: Place[J] = [job]
        heapq.heappush(self._heap, (deadline, self._number, place))
        return place

    def leave(self, place: Place[J]) -> None:
        """The job of `place` is not waited for any more."""
        place[0] = None
        self._empty += 1
        if self._empty > SPARE and self._empty > len(self._heap) // 2:
            self._heap = [one for one in self._heap if one[2][0] is not None]
            heapq.heapify(self._heap)
            self._empty = 0

    def expired(self, now: float) -> list[J]:
        """The jobs whose deadline has come, the earliest first; they have left."""
        found: list[J] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            job = heapq.heappop(heap)[2][0]
            if job is None:
                self._empty -= 1
            else:
                found.append(job)
        return found

    def first(self) -> J | None:
        """The job with the earliest deadline; None where nobody has one."""
        heap = self._heap
        while heap:
            if (job := heap[0][2][0]) is not None:
                return job
            heapq.heappop(heap)
            self._empty -= 1
        return None

    def __len__(self) -> int:
        """Places that are kept, empty ones included."""
        return len(self._heap)
