"""R2: whatever is forwarded is exactly one strict request per request, and never more answers."""

import random

import pytest

from tests.harness import corpora
from tests.harness.cases import Outcome, play
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import parse_requests

CORPORA = ("gunicorn_requests", "desync_guardian", "llhttp_requests", "apache_h1", "nginx_host")
REFUSED = ("reject", "reject_or_close", "lenient_only")
BYTES = [b"\r", b"\n", b"\r\n", b"\t", b" ", b"\x00", b"\x0b", b":", b",", b";", b"0", b"\xff"]
LINES = [
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Connection: close, content-length\r\n",
    b"Host: other.test\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
]


def too_much(row: dict, outcome: Outcome) -> str:
    """What passed that should not have; "" when all is accounted for."""
    if fault := outcome.smuggled():
        return fault
    sent = row.get("messages_complete") or len(parse_requests(corpora.raw(row)).requests)
    if outcome.completed > max(1, sent):
        return f"{outcome.completed} requests made of {sent}: {outcome}"
    if len(outcome.statuses) > max(1, sent) + 1:
        return f"{len(outcome.statuses)} answers to {sent} requests: {outcome}"
    return ""


def is_answered(row: dict) -> bool:
    """Whether the row is a whole request that must get an answer."""
    return row["verdict"] == "accept" and parse_requests(corpora.raw(row)).fault != "incomplete"


def judged(row: dict, outcome: Outcome) -> str:
    """Why this outcome is not what the row's verdict asks for; "" when it is."""
    if why := too_much(row, outcome):
        return why
    if row["verdict"] == "incomplete":
        whole = len([r for r in parse_requests(corpora.raw(row)).requests if r.complete])
        if outcome.completed > whole:
            return f"made whole: {outcome}"
        return "" if outcome.ended or outcome.statuses else f"left hanging: {outcome}"
    if is_answered(row):
        if not outcome.completed:
            return f"not forwarded: {outcome}"
        if not outcome.statuses or outcome.statuses[0] != 200:
            return f"forwarded but answered {outcome}"
    return ""


async def test_r02_every_other_row_is_forwarded_as_strict_requests_or_refused() -> None:
    rows = [
        row
        for row in corpora.rows(*CORPORA)
        if row["verdict"] not in REFUSED and not row.get("needs_setting")
    ]
    faults = []
    settings = {"head_timeout": "100ms", "body_idle": "100ms"}  # each row is one write
    async with one_origin() as origin, running_gateway(one_backend(origin), **settings) as gateway:
        for row in rows:
            data, half_close = corpora.raw(row), row.get("half_close", False)
            outcome = await play(
                gateway,
                origin,
                [data],
                half_close=half_close,
                until_closed_s=10.0 if row["verdict"] == "incomplete" else 0.0,
            )
            if why := judged(row, outcome):
                faults.append((row["id"], why))
    assert not (unexplained := corpora.unexplained("r02", faults)), "\n".join(unexplained)


def mutant(chance: random.Random, data: bytes) -> bytes:
    """`data` with one to three small faults."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:at] + chance.choice(BYTES) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + chance.randint(1, 3) :]
        elif kind == 2:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 3:
            cut = data.find(b"\r\n", at) + 2
            data = data[:cut] + chance.choice(LINES) + data[cut:]
        else:
            other = chance.randrange(len(data) + 1)
            data = data[: min(at, other)] + data[min(at, other) :] * 2
    return data


async def _mutants(count: int, seed: int) -> None:
    rows = [
        corpora.raw(row)
        for row in corpora.rows("gunicorn_requests", "llhttp_requests")
        if row["verdict"] == "accept" and not row.get("needs_setting") and len(row["raw"]) < 2000
    ]
    chance, faults = random.Random(seed), []
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        for number in range(count):
            data = mutant(chance, chance.choice(rows))
            outcome = await play(gateway, origin, [data], half_close=True)
            good = [status for status in outcome.statuses if status < 400]
            if fault := outcome.smuggled():
                faults.append(f"{number} {data!r}: {fault}")
            elif len(good) > outcome.completed:
                faults.append(f"{number} {data!r}: answers {good} to {outcome.completed}")
    assert not faults, "\n".join(faults)


async def test_r02_mutants_of_good_requests_never_reach_an_instance_malformed() -> None:
    await _mutants(300, seed=2)


@pytest.mark.soak
async def test_r02_five_thousand_mutants_never_reach_an_instance_malformed() -> None:
    await _mutants(5000, seed=random.randrange(1 << 30))
