"""Requests at a gateway that refuses them once edits are acknowledged without it."""

import pytest

from gateway.dataplane.exchange import Exchange
from gateway.dataplane.leased import LeasedExchange, LeasedTracedExchange

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
EXPECTS = POST.replace(b"Host: h", b"Host: h\r\nExpect: 100-continue")


@pytest.fixture
async def leased(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.exchange_of = LeasedExchange
    gateway.one(instance)
    return gateway


def lose(gateway) -> None:
    gateway.plane.lease_until = gateway.plane.now() - 1.0


def hold(gateway) -> None:
    gateway.plane.lease_until = gateway.plane.now() + 60.0


@pytest.mark.parametrize("request_", [GET, POST + b"body"], ids=["bare", "with a body"])
async def test_what_comes_without_a_lease_is_refused_and_goes_on_under_the_next(
    leased, request_
) -> None:
    peer = await leased.connect()
    told = []
    for change in (hold, lose, hold):
        change(leased)
        peer.write(request_)
        answer = await peer.answer()
        told.append((answer.status, answer.error))
    peer.close()
    assert told == [(200, None), (503, "store_lost"), (200, None)]


async def test_a_body_is_not_asked_for_that_would_be_refused(leased) -> None:
    lose(leased)
    answer = await leased.ask(EXPECTS)
    assert (answer.status, answer.error) == (503, "store_lost")


async def test_a_lease_that_ends_while_a_body_comes_is_seen_before_the_decision(leased) -> None:
    peer = await leased.connect()
    hold(leased)
    peer.write(EXPECTS)
    assert (await peer.answer()).status == 100
    lose(leased)
    peer.write(b"body")
    answer = await peer.answer()
    peer.close()
    assert (answer.status, answer.error) == (503, "store_lost")


WITHOUT = b"/-/health?a=b&exclude=lease"
PROBE = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(("store_lost", "ready"), [("serve", 200), ("refuse", 503)])
async def test_without_its_lease_it_is_unwell_and_ready_where_it_would_answer(
    rig, stub, store_lost: str, ready: int
) -> None:
    """Of gateways that are all unwell, whoever knows "ready" alone would ask none."""
    gateway = await rig(store="etcd", store_lost=store_lost)
    gateway.one(await stub())

    async def said() -> list[int]:
        return [(await gateway.ask(PROBE % path)).status for path in (b"/-/health", WITHOUT)]

    assert await said() == [503, 503], "its table may be older than what others answer by"
    lose(gateway)
    assert await said() == [503, 503], "it began with a copy, and was never one of them"
    hold(gateway)
    gateway.plane.had_lease = True
    assert await said() == [200, 200]
    lose(gateway)
    assert await said() == [503, ready]
    gateway.plane.lame = True
    assert await said() == [503, 503]
    gateway.plane.is_replaced = True
    assert await said() == [200, 200]


async def test_another_gateway_does_without_a_lease(rig, stub) -> None:
    gateway = await rig()
    gateway.one(await stub())
    lose(gateway)
    assert (await gateway.ask(GET)).status == 200


def test_leased_requests_are_of_the_form_that_the_others_are_of() -> None:
    """Compiled, where those are compiled."""
    for leased in (LeasedExchange, LeasedTracedExchange):
        assert type(vars(leased)["_decide"]) is type(vars(Exchange)["copy"])
