"""R12: whatever an instance answers, the client sees one well-formed response or a broken one."""

from typing import Any

from tests.harness import corpora
from tests.harness.gateway import Gateway, backend, one_backend, running_gateway
from tests.harness.origins import Origin, one_origin, raw
from tests.harness.wire import Parsed, parse_responses, wire

BROKEN = ("reject", "gateway_502_or_abort", "lenient_only")
WHOLE = ("accept", "forward", "forward_first_only_and_never_reuse")


async def answer_to(
    gateway: Gateway, origin: Origin, data: bytes, close: bool, path: bytes
) -> Parsed:
    """What the client's strict parser makes of the gateway's answer."""
    origin.respond = raw(data, close)
    async with wire(gateway.data_port) as client:
        await client.send(b"GET %s HTTP/1.1\r\nHost: gw.test\r\n\r\n" % path)
        await client.read_till(len)
        await client.read_until_quiet(0.05)
        parsed = parse_responses(bytes(client.received), ["GET"], client.ended == "closed")
        if not parsed.responses or parsed.responses[0].complete:
            return parsed
        await client.read_for()  # an unfinished answer must end as a broken one
        parsed = parse_responses(bytes(client.received), ["GET"], client.ended == "closed")
        assert client.ended, f"left hanging after {bytes(client.received)!r:.200}"
        return parsed


def judged(row: dict[str, Any], parsed: Parsed, close: bool) -> str:
    """What is wrong with this answer, or ""."""
    if len(parsed.responses) != 1:
        return f"{len(parsed.responses)} answers: {parsed.fault} {parsed.rest[:200]!r}"
    response, verdict = parsed.responses[0], row["verdict"]
    if response.complete and parsed.rest:
        return f"more than one answer: {parsed.rest[:200]!r}"
    if not response.complete:
        return "" if verdict not in ("accept", "forward") else f"broken off: {parsed.fault}"
    # What stays open may go on: an instance that never finishes its head is a timeout.
    if verdict in BROKEN and response.status not in ((502,) if close else (502, 504)):
        return f"passed on as {response.status} {response.body[:100]!r}"
    if verdict == "abort_client_connection" and response.status != 502:
        return f"a cut body ended cleanly: {response.body[:100]!r}"
    if verdict in ("accept", "forward") and response.status in (502, 504):
        return f"refused: {response.body[:200]!r}"
    if verdict == "forward_first_only_and_never_reuse" and response.body != b"hello":
        return f"body {response.body!r}"
    return ""


async def _run(rows: list[dict[str, Any]], close: bool) -> list[str]:
    faults = []
    async with one_origin() as origin:
        eject = {"failures": 1000000}
        document = one_backend(origin, eject=eject)
        # For what never ends. Of all else an instance that is kept waiting is none that is late.
        soon = {"response": "300ms", "idle": "300ms"}
        document["backends"]["soon"] = backend(origin, timeouts=soon, eject=eject)
        document["routes"]["soon"] = {"match": "/soon", "split": {"soon": 1}}
        async with running_gateway(document) as gateway:
            for row in rows:
                path = b"/x" if close or row["verdict"] in WHOLE else b"/soon"
                parsed = await answer_to(gateway, origin, corpora.raw(row), close, path)
                if why := judged(row, parsed, close):
                    faults.append((row["id"], why))
                origin.respond = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme", False)
                after = await gateway.client.get(f"{gateway.url}/after")
                if after.body != b"me":
                    faults.append((row["id"], f"the next request got {after}"))
    return corpora.unexplained("r12", faults)


async def test_r12_a_malformed_answer_becomes_502_and_never_two_answers() -> None:
    rows = corpora.rows("llhttp_responses", "upstream_responses_extra")
    unexplained = await _run(rows, close=True)
    assert not unexplained, "\n".join(unexplained)


async def test_r12_the_same_where_the_instance_keeps_its_connection_open() -> None:
    rows = [
        {**row, "verdict": "either"}
        if row["verdict"] in ("forward", "abort_client_connection")
        else row
        for row in corpora.rows("upstream_responses_extra")
    ]
    unexplained = await _run(rows, close=False)
    assert not unexplained, "\n".join(unexplained)
