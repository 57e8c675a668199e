"""R64: who the client is, is for the gateway to say; internal headers never leave it."""

from typing import Any

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Reply
from tests.harness.origins import Exchange, one_origin
from tests.harness.ports import free_port

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
]


async def through(
    trusted: list[str], headers: list[tuple[str, str]], **more: Any
) -> tuple[Exchange, Reply]:
    """What the instance and what the client saw of one request with `headers`."""

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.reply(
            200, b"ok", [("endpoint-load-metrics", 'JSON {"named_metrics": {"queue": 1}}')]
        )

    settings: dict[str, Any] = {"trusted_proxies": trusted, **more}
    async with one_origin(respond) as origin:
        async with running_gateway(one_backend(origin), **settings) as gateway:
            reply = await gateway.client.get(f"{gateway.url}/x", headers=headers)
            assert reply.status == 200
            return origin.exchanges[0], reply


async def test_r64_what_an_untrusted_peer_claims_is_overwritten() -> None:
    seen, reply = await through([], FORGED)
    assert seen.all("x-forwarded-for") == [b"127.0.0.1"]
    assert seen.all("x-forwarded-proto") == [b"http"]
    assert len(seen.all("x-forwarded-host")) == 1
    assert b"evil" not in seen.all("x-forwarded-host")[0]
    assert b"6.6.6.6" not in b"".join(seen.all("forwarded") + seen.all("x-real-ip"))
    assert seen.header("x-request-id") not in ("", "forged")
    assert seen.header("x-headgate-timeout-ms") != "1"
    assert seen.all("x-headgate-instance") == []
    assert seen.all("x-headgate-route") == []
    assert reply.header("x-request-id") == seen.header("x-request-id")


async def test_r64_a_trusted_proxy_is_believed_and_extended() -> None:
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


async def test_r64_the_load_report_never_reaches_the_client() -> None:
    _, reply = await through([], [])
    assert reply.header("endpoint-load-metrics") == ""


async def test_r64_a_client_by_ipv4_is_called_so_on_a_socket_for_both() -> None:
    seen, _ = await through([], [], listen=f"[::]:{free_port()}")
    assert seen.all("x-forwarded-for") == [b"127.0.0.1"]
    seen, _ = await through(
        ["127.0.0.0/8"], [("X-Forwarded-For", "203.0.113.9")], listen=f"[::]:{free_port()}"
    )
    assert seen.all("x-forwarded-for") == [b"203.0.113.9, 127.0.0.1"]
