"""R64: who the client is, is for the gateway to say; internal headers never leave it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Reply
from tests.harness.origins import Exchange, one_origin
from tests.harness.ports import free_port
from tests.requirements.conftest import SHARED_LOOP

pytestmark = SHARED_LOOP

FORGED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-For", ", ".join(f"10.0.0.{n}" for n in range(100))),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.test"),
    ("Forwarded", "for=6.6.6.6;proto=https;host=evil.test"),
    ("X-Real-IP", "6.6.6.6"),
    ("X-Request-Id", "forged"),
    ("X-Headgate-Timeout-Ms", "1"),
    ("X-Headgate-Instance", "10.0.0.1:1"),
    ("X-Headgate-Route", "admin"),
    ("X-Headgate-Backend", "other"),
    ("X-Headgate-Revision", "999"),
    ("X-Headgate-Mirror", "1"),
    ("X-Headgate-Error", "none"),
    ("X-Headgate-Consumer", "root"),
    ("x-headgate-anything", "else"),
]
ANSWERED = [
    ("endpoint-load-metrics", 'JSON {"named_metrics": {"queue": 1}}'),
    ("X-Headgate-Route", "forged"),
    ("X-Headgate-Backend", "forged"),
    ("X-Headgate-Instance", "forged"),
    ("X-Headgate-Revision", "999"),
    ("X-Headgate-Error", "forged"),
    ("X-Request-Id", "forged"),
]


async def answer(exchange: Exchange) -> None:
    await exchange.read()
    exchange.reply(200, b"ok", ANSWERED)


Through = Callable[..., Awaitable[tuple[Exchange, Reply]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def through() -> AsyncIterator[Through]:
    """What the instance and what the client saw of one request with `headers`: through a gateway
    that trusts `trusted`, and has `more` settings. Who asks for the same gets the same gateway."""
    async with one_origin(answer) as origin, AsyncExitStack() as stack:
        gateways: dict[str, Gateway] = {}

        async def ask(
            trusted: list[str], headers: list[tuple[str, str]], **more: Any
        ) -> tuple[Exchange, Reply]:
            settings: dict[str, Any] = {"trusted_proxies": trusted, **more}
            if (key := repr(settings)) not in gateways:
                starting = running_gateway(one_backend(origin), **settings)
                gateways[key] = await stack.enter_async_context(starting)
            gateway = gateways[key]
            reply = await gateway.client.get(f"{gateway.url}/x", headers=headers)
            assert reply.status == 200
            return origin.exchanges[-1], reply

        yield ask


async def test_r64_what_an_untrusted_peer_claims_is_overwritten(through: Through) -> None:
    seen, reply = await through([], FORGED)
    assert seen.all("x-forwarded-for") == [b"127.0.0.1"]
    assert seen.all("x-forwarded-proto") == [b"http"]
    assert len(seen.all("x-forwarded-host")) == 1
    assert b"evil" not in seen.all("x-forwarded-host")[0]
    assert b"6.6.6.6" not in b"".join(seen.all("forwarded") + seen.all("x-real-ip"))
    assert seen.header("x-request-id") not in ("", "forged")
    assert seen.header("x-headgate-timeout-ms") != "1"
    internal = {name for name, _ in seen.headers if name.startswith(b"x-headgate-")}
    assert internal == {b"x-headgate-timeout-ms"}
    assert reply.header("x-request-id") == seen.header("x-request-id")


CLAIMED = [
    "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Uri", "X-Forwarded-Method",
    "X-Forwarded-Port", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-User",
    "X-Forwarded-Tls-Client-Cert", "X-Forwarded-Client-Cert", "X-Original-URL", "X-Original-URI",
    "X-Original-Host", "X-Original-Method", "X-Rewrite-URL", "X-Client-IP", "X-Cluster-Client-IP",
    "True-Client-IP", "CF-Connecting-IP", "X-Host", "X-HTTP-Host-Override", "X-Script-Name",
    "X-Scheme", "Front-End-Https", "X-SSL-Client-Verify", "X-Envoy-Original-Path",
    "X-Auth-Request-User", "Client-Cert", "Remote-User", "X-Real-IP", "Forwarded",
    "Remote-Groups", "SSL-Client-Cert", "SSL-Client-Subject-DN", "X-Amzn-Oidc-Identity",
    "X-Amzn-Mtls-Clientcert", "X-Goog-Authenticated-User-Email", "X-MS-Client-Principal-Name",
    "CF-Access-Authenticated-User-Email", "Tailscale-User-Login", "X-Authentik-Groups",
    "X-Azure-ClientIP", "Forwarded-For",
]  # fmt: skip


async def test_r64_no_client_says_what_only_a_proxy_in_front_may(through: Through) -> None:
    for spelt in (CLAIMED, map(str.lower, CLAIMED), map(str.upper, CLAIMED)):
        seen, _ = await through([], [(name, "/forged") for name in spelt])
        assert [name for name, value in seen.headers if b"forged" in value] == []
    underscored = [(name.replace("-", "_"), "/forged") for name in CLAIMED]
    seen, _ = await through([], underscored, underscore_headers="pass")
    assert [name for name, value in seen.headers if b"forged" in value] == []


async def test_r64_nobody_sets_the_proxy_of_what_runs_by_cgi(through: Through) -> None:
    for trusted in ([], ["127.0.0.0/8"]):
        seen, _ = await through(trusted, [("Proxy", "http://forged.test"), ("X-Proxy", "no")])
        assert (seen.header("proxy"), seen.header("x-proxy")) == ("", "no")


async def test_r64_a_trusted_proxy_may_say_it_and_other_headers_always_pass(
    through: Through,
) -> None:
    claims = [(name, "/said") for name in CLAIMED]
    seen, _ = await through(["127.0.0.0/8"], claims)
    assert {name.lower().encode() for name in CLAIMED} <= {
        name for name, value in seen.headers if value == b"/said"
    }
    others = [("X-HTTP-Method-Override", "PUT"), ("X-Api-Version", "2"), ("X-Rewritten", "no")]
    seen, _ = await through([], others)
    assert {seen.header(name.lower()) for name, _ in others} == {value for _, value in others}


async def test_r64_a_trusted_proxy_is_believed_and_extended(through: Through) -> None:
    claims = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.test"),
        ("X-Request-Id", "from-the-edge"),
    ]
    seen, reply = await through(["127.0.0.0/8"], claims)
    assert seen.all("x-forwarded-for") == [b"203.0.113.9, 127.0.0.1"]
    assert seen.header("x-forwarded-proto") == "https"
    assert seen.header("x-forwarded-host") == "shop.test"
    assert seen.header("x-request-id") == "from-the-edge"
    assert reply.header("x-request-id") == "from-the-edge"


async def test_r64_a_client_by_ipv4_is_called_so_on_a_socket_for_both(through: Through) -> None:
    seen, _ = await through([], [], listen=f"[::]:{free_port()}")
    assert seen.all("x-forwarded-for") == [b"127.0.0.1"]
    seen, _ = await through(
        ["127.0.0.0/8"], [("X-Forwarded-For", "203.0.113.9")], listen=f"[::]:{free_port()}"
    )
    assert seen.all("x-forwarded-for") == [b"203.0.113.9, 127.0.0.1"]


async def test_r64_what_an_instance_says_of_the_gateway_never_reaches_the_client(
    through: Through,
) -> None:
    seen, reply = await through([], [])
    names = [name.lower() for name, _ in reply.headers]
    assert "endpoint-load-metrics" not in names
    assert "x-headgate-error" not in names
    for name in ("route", "backend", "instance", "revision"):
        assert names.count(f"x-headgate-{name}") == 1
        assert reply.header(f"x-headgate-{name}") not in ("forged", "999")
    assert names.count("x-request-id") == 1
    assert reply.header("x-request-id") == seen.header("x-request-id")


async def test_r64_a_trusted_hop_may_bring_a_hundred_before_it(through: Through) -> None:
    hops = [f"203.0.113.{n}" for n in range(100)]
    claims = [("X-Forwarded-For", ", ".join(hops[:99])), ("X-Forwarded-For", hops[99])]
    seen, _ = await through(["127.0.0.0/8"], claims)
    assert b", ".join(seen.all("x-forwarded-for")).decode().split(", ") == [*hops, "127.0.0.1"]
