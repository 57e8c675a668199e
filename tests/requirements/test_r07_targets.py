"""R7: the path that chose the route is the path that is forwarded, byte for byte."""

from tests.harness import corpora
from tests.harness.cases import Outcome, play
from tests.harness.gateway import backend, running_gateway
from tests.harness.origins import Exchange, one_origin
from tests.harness.wire import parse_responses
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

UNCHANGED = ("keep", "case", "ctl", "long_ok", "dotsemi")
UNCHANGED_OR_400 = ("slashes", "badpct", "backslash", "overlong", "dot")
REFUSED = {
    "nul": (400,),
    "too_long": (414, 400, 431),
    "asterisk": (400, 404, 405),
    "authority": (400, 405, 501),
    "malformed": (400,),
}


def judged(row: dict, outcome: Outcome, seen: list[Exchange]) -> str:
    """What is wrong with how this target was treated, or ""."""
    sent, kind = corpora.raw(row, "target"), row["cls"]
    if len(outcome.statuses) != 1:
        return f"{len(outcome.statuses)} answers: {outcome}"
    status = outcome.statuses[0]
    if kind in REFUSED:
        return "" if status in REFUSED[kind] and not seen else str(outcome)
    if status != 200:
        lenient = kind not in ("keep", "long_ok", "absolute", "case")
        return "" if status in (400, 421) and lenient else str(outcome)
    answer = parse_responses(outcome.answer, ["GET"], True).responses[0]
    target = seen[0].target
    path = target.split(b"?")[0]
    by_bytes = "a" if path == b"/a" or path.startswith(b"/a/") else "all"
    if answer.header("x-headgate-route") != by_bytes:
        return f"routed by {answer.header('x-headgate-route')}, forwarded {target!r}"
    if kind in UNCHANGED + UNCHANGED_OR_400 and target != sent and kind != "dot":
        return f"forwarded {target!r}"
    if kind in ("absolute", "absolute_other") and not target.startswith(b"/"):
        return f"forwarded {target!r}"
    if kind == "frag" and b"#" in target:
        return f"forwarded {target!r}"
    return ""


async def test_r07_every_target_is_routed_and_forwarded_by_the_same_bytes() -> None:
    faults = []
    async with one_origin() as origin:
        routes = {
            "a": {"match": "/a", "split": {"main": 1}},
            "all": {"match": "/", "split": {"main": 1}},
        }
        document = {"backends": {"main": backend(origin)}, "routes": routes}
        async with running_gateway(document) as gateway:
            for row in corpora.rows("request_targets"):
                data = b"GET %s HTTP/1.1\r\nHost: gw.test\r\n\r\n" % corpora.raw(row, "target")
                before = len(origin.exchanges)
                outcome = await play(gateway, origin, [data])
                if why := judged(row, outcome, origin.exchanges[before:]):
                    faults.append((row["id"], why))
    assert not (unexplained := corpora.unexplained("r07", faults)), "\n".join(unexplained)


async def test_r07_no_target_makes_the_gateway_connect_to_another_host(plain: Plain) -> None:
    gateway, origin = plain
    async with one_origin() as elsewhere:
        there = f"127.0.0.1:{elsewhere.port}".encode()
        targets = [
            b"http://" + there + b"/x",
            b"http://" + there,
            b"//" + there + b"/x",
            b"/http://" + there + b"/x",
            b"@" + there,
            b"/@" + there + b"/x",
            b"http://gw.test@" + there + b"/x",
        ]
        for target in targets:
            for host in (b"gw.test", there):
                data = b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
                outcome = await play(gateway, origin, [data])
                assert outcome.statuses in ([200], [400]), (target, outcome)
        outcome = await play(gateway, origin, [b"CONNECT %s HTTP/1.1\r\n\r\n" % there])
        assert outcome.statuses == [400], outcome
        assert elsewhere.connections == []


async def test_r07_odd_targets_are_answered_and_never_with_500(plain: Plain) -> None:
    gateway, origin = plain
    targets = [b"/x%0Ay", b"*", b"http://gw.test", b"http://gw.test?x=1", b"/%", b"/?", b"//"]
    for method in (b"GET", b"OPTIONS"):
        for target in targets:
            data = method + b" " + target + b" HTTP/1.1\r\nHost: gw.test\r\n\r\n"
            outcome = await play(gateway, origin, [data])
            assert len(outcome.statuses) == 1, (target, outcome)
            assert outcome.statuses[0] < 500, (target, outcome)
