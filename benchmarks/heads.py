"""What does a request look like that no other request looks like? The harder of the two loads.

Clients send a trace context, a user and a query of their own with every request; a load that
repeats one head to the byte shows none of that. Here a few thousand requests are made before wrk
starts, and each has two gaps that a counter fills when it is sent, so that the load generator
joins strings and does nothing else. Refuses to be random between runs: the same seed, the same
requests in the same order.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

REQUESTS, USERS = 4096, 10_000
LONGEST = 160  # letters that a query and a body are longer by, at most
BODY = '{"input": 4.0}'
_GAP, _END = b"\1", b"\2"  # in the file: where the counter goes, and where a request ends
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Target:
    """What a request is for; `host` "" is the address that is connected to."""

    path: str = "/predict"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def different(
    address: str, targets: Sequence[Target], count: int = REQUESTS, seed: int = 1
) -> list[bytes]:
    """`count` requests with two gaps each, every target as often as the next, in random order."""
    chance = random.Random(seed)
    asked = [targets[number % len(targets)] for number in range(count)]
    chance.shuffle(asked)
    return [_request(address, target, chance) for target in asked]


def _request(address: str, target: Target, chance: random.Random) -> bytes:
    user = chance.randrange(USERS)
    body = json.dumps({"input": 4.0, "note": _text(chance)})
    trace = f"{chance.getrandbits(128) | 1:032x}"
    lines = [
        f"POST {target.path}?user={user}&request=\1&text={_text(chance)} HTTP/1.1",
        f"Host: {target.host or address}",
        f"traceparent: 00-{trace}-\1-01",
        f"X-User-Id: user-{user}",
        *(f"{name}: {value}" for name, value in target.headers),
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(_LETTERS, k=chance.randrange(LONGEST)))


def as_file(requests: Sequence[bytes]) -> bytes:
    """What `DIFFERENT` reads."""
    return b"".join(request + _END for request in requests)


# Sixteen hexadecimal digits, never all zero: a span id, and a query's number.
DIFFERENT = """local first, middle, last, count, sent = {{}}, {{}}, {{}}, 0, {start}
local file = assert(io.open("{file}", "rb"))
for a, b, c in file:read("*a"):gmatch("([^\\1\\2]*)\\1([^\\1\\2]*)\\1([^\\1\\2]*)\\2") do
  count = count + 1
  first[count], middle[count], last[count] = a, b, c
end
file:close()
assert(count == {count})
function request()
  sent = sent + 1
  local id, at = string.format("%016x", sent), sent % count + 1
  return first[at] .. id .. middle[at] .. id .. last[at]
end
"""
