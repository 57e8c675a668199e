"""What did the client get and what did the origin see when these bytes were sent?

`play` sends one case on a connection of its own and gathers both sides. Cases are played one at
a time, so that every byte at the origin belongs to the case being played.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.harness.gateway import Gateway
from tests.harness.origins import Origin
from tests.harness.wire import ANSWER_S, Parsed, parse_requests, wire

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


def final_codes(data: bytes | bytearray) -> list[int]:
    """The status codes of the final answers in `data`, by their status lines."""
    codes = [int(code) for code in _STATUS_LINE.findall(data)]
    return [code for code in codes if code >= 200 or code == 101]


@dataclass(slots=True)
class Outcome:
    """Both sides of one case. `upstream`: one entry per connection that got bytes."""

    answer: bytes = b""
    ended: str = ""
    upstream: list[bytes] = field(default_factory=list)
    still_open: bool = False

    @property
    def statuses(self) -> list[int]:
        """The final status codes on the client's socket, by their status lines."""
        return final_codes(self.answer)

    @property
    def parsed(self) -> list[Parsed]:
        return [parse_requests(data) for data in self.upstream]

    @property
    def completed(self) -> int:
        """How many whole requests the origin got."""
        return sum(request.complete for parsed in self.parsed for request in parsed.requests)

    def smuggled(self) -> str:
        """What is wrong with the bytes at the origin; "" when all is strict and accounted for.

        An unfinished request is no fault where the gateway has closed its connection.
        """
        for data, parsed in zip(self.upstream, self.parsed, strict=True):
            if parsed.fault == "incomplete" and not self.still_open:
                continue
            if parsed.fault:
                return f"{parsed.fault}: {data[:200]!r}"
        return ""

    def __str__(self) -> str:
        return f"{self.statuses or self.ended or 'silence'}, origin got {self.upstream!r:.300}"


def _lengths(origin: Origin) -> dict[int, int]:
    return {id(c): len(c.received) for c in origin.connections if not c.probe}


async def play(
    gateway: Gateway,
    origin: Origin,
    steps: Sequence[bytes],
    *,
    half_close: bool = False,
    patient_s: float = ANSWER_S,
    until_closed_s: float = 0.0,
) -> Outcome:
    """Send `steps` on one connection, 60 ms apart, read the answer, and look at the origin.

    Reading ends when the gateway closes, or 50 ms after an answer, in which others may follow
    it. Then the client leaves, and the gateway closes: nothing more comes of the case, to be
    taken for the next one's. `patient_s`: how long to wait for an answer; shorter where there
    need not be one. `until_closed_s`: wait that long for the gateway to close, whatever it answers.
    """
    before = _lengths(origin)
    async with wire(gateway.data_port) as client:
        for number, step in enumerate(steps):
            if number:
                await asyncio.sleep(0.06)
            await client.send(step)
        if half_close:
            client.half_close()
        if until_closed_s:
            await client.read_for(until_closed_s)
        else:
            await client.read_till(final_codes, patient_s)
            await client.read_until_quiet(0.05)
        ended = client.ended
        client.half_close()
        await client.read_for()
        outcome = Outcome(bytes(client.received), ended)
    await _settle(origin, before, outcome)
    return outcome


async def _settle(origin: Origin, before: dict[int, int], outcome: Outcome) -> None:
    """Fill in the origin's side; an unfinished request gets 10 s to be closed."""
    end = time.monotonic() + 10.0
    while True:
        touched = [
            c for c in origin.connections if not c.probe and len(c.received) > before.get(id(c), 0)
        ]
        outcome.upstream = [bytes(c.received[before.get(id(c), 0) :]) for c in touched]
        open_faults = [
            c.malformed or not c.closed
            for c, parsed in zip(touched, outcome.parsed, strict=True)
            if parsed.fault == "incomplete" and not c.closed
        ]
        outcome.still_open = bool(open_faults)
        if not open_faults or time.monotonic() > end:
            return
        await asyncio.sleep(0.01)
