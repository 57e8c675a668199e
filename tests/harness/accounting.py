"""Do a gateway's counts equal what its clients saw?

Exactly, per route, backend, instance and code: that is what the contract says of
`headgate_requests_total`. A reply that is an error of the gateway's own, or names no instance
because the client itself lost it, is compared by code alone.
"""

from collections import Counter
from collections.abc import Iterable

from tests.harness.gateway import Gateway, eventually
from tests.harness.load import Reply

Key = tuple[str, str, str, str]
LEFT = ("left", "timeout")  # the client went away


def code_of(reply: Reply) -> str:
    """The code a reply is counted under: 499 for a client that left before the head."""
    return "499" if not reply.status and reply.error in LEFT else str(reply.status)


def seen(replies: Iterable[Reply]) -> Counter[Key]:
    """Replies by route, backend, instance and code, as their headers tell."""
    names = ("x-headgate-route", "x-headgate-backend", "x-headgate-instance")
    counts: Counter[Key] = Counter()
    for reply in replies:
        route, backend, instance = (reply.header(name) for name in names)
        if reply.header("x-headgate-error"):
            instance = ""  # where it was tried, and not who answered
        counts[(route, backend, instance, code_of(reply)) if instance else ("", "", "", "")] += 1
    return counts


async def counted(gateway: Gateway) -> tuple[Counter[str], Counter[Key]]:
    """What the gateway counted: by code, and by route, backend, instance and code where an
    instance answered. Its own health answers are left out."""
    codes: Counter[str] = Counter()
    answered: Counter[Key] = Counter()
    for sample in (await gateway.metrics()).where("headgate_requests_total"):
        labels, count = sample.labels, int(sample.value)
        if not labels["route"] and labels["code"] == "200":
            continue
        codes[labels["code"]] += count
        if labels["reason"] == "" and labels["instance"]:
            key = (labels["route"], labels["backend"], labels["instance"], labels["code"])
            answered[key] += count
    return codes, answered


async def assert_counted(gateway: Gateway, replies: Iterable[Reply]) -> None:
    """Fails unless each of `replies`, and nothing else, was counted as its client saw it.

    Call it when nothing else was asked through the gateway's routes.
    """
    replies = list(replies)
    codes = Counter(code_of(reply) for reply in replies)
    whole = seen(r for r in replies if not r.error)
    del whole[("", "", "", "")]

    async def equal() -> bool:
        return await counted(gateway) == (codes, whole)

    try:
        await eventually(equal, what="the counts equal what the clients saw")
    except AssertionError:
        got = await counted(gateway)
        assert got == (codes, whole), (
            f"counted {got[0]} {dict(got[1] - whole)}, seen {codes} {dict(whole - got[1])}"
        )
