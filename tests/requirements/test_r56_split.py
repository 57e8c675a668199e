"""R56: shares are kept to within four requests, and sticky keys move no more than they must."""

from collections import Counter
from itertools import pairwise

from tests.harness.gateway import Gateway, backend, running_gateway
from tests.harness.load import Ask, closed_loop
from tests.harness.origins import fixed, origins

WEIGHTS = [
    {"a": 50, "b": 50, "c": 0},
    {"a": 90, "b": 10, "c": 0},
    {"a": 99, "b": 1, "c": 0},
    {"a": 1, "b": 1, "c": 1},
]
COUNT = 1500
KEYS = 600


async def chosen(gateway: Gateway, path: str, count: int, sticky: bool = False) -> dict[str, str]:
    """Which backend each of `count` requests went to."""

    def make(number: int) -> Ask:
        headers = [("X-User-Id", f"user-{number}")] if sticky else []
        return Ask(path=path, headers=headers, id=str(number))

    replies = await closed_loop(gateway.url, 8, count, make)
    assert all(r.ok for r in replies), Counter(r.error or r.status for r in replies)
    return {r.id: r.header("x-headgate-backend") for r in replies}


async def test_r56_counts_are_within_four_of_each_share_and_sticky_keys_stay() -> None:
    async with origins(3, fixed()) as stubs:
        document = {
            "backends": {name: backend(s) for name, s in zip("abc", stubs, strict=True)},
            "routes": {
                "plain": {"match": "/plain", "split": {"a": 1, "b": 1, "c": 0}},
                "sticky": {
                    "match": "/sticky",
                    "split": {"a": 60, "b": 30, "c": 10},
                    "sticky": {"header": "X-User-Id"},
                },
            },
        }
        async with running_gateway(document) as gateway:
            for weights in WEIGHTS:
                await gateway.set_weights("plain", weights)
                seen = Counter((await chosen(gateway, "/plain/x", COUNT)).values())
                for name, weight in weights.items():
                    share = COUNT * weight / sum(weights.values())
                    assert abs(seen[name] - share) <= 4, (weights, seen)
            await _sticky(gateway)


async def _sticky(gateway: Gateway) -> None:
    """The share of c grows from 10 to 40 %, step by step: only c may gain keys."""
    steps = [{"a": 60, "b": 30, "c": c} for c in (10, 20, 60)]
    maps = []
    for weights in steps:
        await gateway.set_weights("sticky", weights)
        maps.append((weights, await chosen(gateway, "/sticky/x", KEYS, sticky=True)))
    for (old_weights, old), (weights, new) in pairwise(maps):
        moved = [key for key in new if new[key] != old[key]]
        assert all(new[key] == "c" for key in moved)
        grown = weights["c"] / sum(weights.values()) - old_weights["c"] / sum(old_weights.values())
        assert len(moved) / KEYS <= grown + 0.05
    again = await chosen(gateway, "/sticky/x", KEYS, sticky=True)
    assert again == maps[-1][1]
