"""R42: a deadline travels with the request, ends it on time, and stops work nobody awaits."""

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, get_each, open_loop, percentile
from tests.harness.origins import after, hang, one_origin, served
from tests.harness.stretch import Stretch


async def test_r42_the_gateway_answers_504_at_the_deadline_and_tells_the_instance() -> None:
    async with one_origin(hang) as origin:
        document = one_backend(origin, route={"deadline": "500ms"})
        async with running_gateway(document) as gateway, Stretch() as work:
            replies = await open_loop(gateway.url, 25, 2.0, get_each)
        assert {r.status for r in replies} == {504}
        assert {r.header("x-headgate-error") for r in replies} == {"deadline"}
        took = [r.took_s for r in replies]
        assert min(took) >= 0.45, min(took)
        # A pause of the machine makes those late that end in it, and where it is somebody else's
        # too, all takes so many times as long.
        stretch = work.between(replies[0].intended, replies[-1].intended)
        assert percentile(took, 90) <= 0.5 + 0.05 * stretch, sorted(took)
        told = [int(e.header("x-headgate-timeout-ms")) for e in origin.exchanges]
        assert max(told) <= 500, told
        assert percentile(told, 50) >= 450, sorted(told)
        assert all(e.gone.is_set() for e in origin.exchanges)


async def test_r42_what_expires_in_the_queue_is_never_sent() -> None:
    async with one_origin(served(1, 0.2)) as origin:
        document = one_backend(
            origin, max_in_flight=1, queue={"size": 100, "timeout": "30s"},
            route={"deadline": "650ms"},
        )  # fmt: skip
        async with running_gateway(document) as gateway, Stretch() as work:
            make = lambda n: Ask("POST", "/x", [("X-Test-Id", f"q{n}")], b"{}", id=f"q{n}")  # noqa: E731
            replies = await open_loop(gateway.url, 30, 1.0, make)
        began = {e.id for e in origin.exchanges}
    assert {r.status for r in replies} <= {200, 503, 504}
    late = [r.took_s for r in replies if r.status == 504]
    stretch = work.between(replies[0].intended, replies[-1].intended)
    assert percentile(late, 90) <= 0.65 + 0.05 * stretch, sorted(late)
    unasked = [r.id for r in replies if r.status == 503 and r.id in began]
    assert unasked == []
    # One at a time runs 0.2 s: of those that were sent only the last few can come too late.
    assert len(began) <= len([r for r in replies if r.ok]) + 2, len(began)
    left = [int(e.header("x-headgate-timeout-ms")) for e in origin.exchanges]
    assert min(left) > 1, "sent after its deadline"  # 1 is what nothing left is told as


async def test_r42_a_route_without_a_deadline_waits_for_its_response_timeout() -> None:
    async with one_origin(after(0.8)) as origin:
        async with running_gateway(one_backend(origin)) as gateway:
            assert (await gateway.client.get(f"{gateway.url}/x")).status == 200
