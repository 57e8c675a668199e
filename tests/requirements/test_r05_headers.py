"""R5: hop-by-hop and nominated headers stop here; all others pass byte for byte or not at all."""

from tests.harness.cases import play
from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import Origin, fixed, one_origin, raw
from tests.harness.wire import wire
from tests.requirements.conftest import SHARED_LOOP, Plain

pytestmark = SHARED_LOOP

HOP = {
    "Connection": "close, X-Hop, Authorization, X-Forwarded-For, Host, Content-Length",
    "X-Hop": "nominated",
    "Authorization": "Basic bm9taW5hdGVk",
    "Keep-Alive": "timeout=5",
    "Proxy-Connection": "keep-alive",
    "Proxy-Authorization": "Basic c2VjcmV0",
    "TE": "trailers, deflate",
    "Upgrade": "h2c",
}
REFUSED_FIELDS = [
    b"Na me: v",
    b"Na\x00me: v",
    b"Na(me: v",
    b"Name : v",
    b": v",
    b"X-A: a\x00b",
    b"X-A: a\x01b",
    b"X-A: a\x7fb",
    b"X-A: a\rb",
    b" X-A: folded",
]


async def test_r05_hop_by_hop_and_nominated_headers_never_pass(plain: Plain) -> None:
    gateway, origin = plain
    async with wire(gateway.data_port) as client:
        fields = "".join(f"{name}: {value}\r\n" for name, value in HOP.items())
        head = f"POST /x HTTP/1.1\r\nHost: gw.test\r\n{fields}Content-Length: 2\r\n\r\nok"
        await client.send(head.encode())
        assert (await client.read_response()).status == 200
    seen = origin.exchanges[0]
    for name in ("x-hop", "keep-alive", "proxy-connection", "te", "upgrade"):
        assert seen.all(name) == [], name
    nominated = {b"x-hop", b"authorization", b"x-forwarded-for", b"host", b"close"}
    assert not any(word.strip().lower() in nominated for word in b",".join(
        seen.all("connection")).split(b","))  # fmt: skip
    assert seen.header("x-forwarded-for").endswith("127.0.0.1")
    assert len(seen.all("host")) == 1
    assert seen.header("host") == "gw.test"
    assert seen.body == b"ok"


async def test_r05_nothing_that_the_gateway_adds_can_be_nominated_away(plain: Plain) -> None:
    added = ("Via", "X-Request-Id", "X-Forwarded-Proto", "X-Forwarded-Host", "traceparent",
             "X-Headgate-Timeout-Ms")  # fmt: skip
    gateway, origin = plain
    async with wire(gateway.data_port) as client:
        head = f"GET /x HTTP/1.1\r\nHost: gw.test\r\nConnection: {', '.join(added)}\r\n"
        await client.send(head.encode() + b"traceparent: 00-nominated\r\n\r\n")
        assert (await client.read_response()).status == 200
    seen = origin.exchanges[0]
    assert [len(seen.all(name)) for name in added] == [1] * len(added)
    assert b"nominated" not in b"".join(value for _, value in seen.headers)


async def test_r05_a_field_that_is_no_field_is_refused(plain: Plain) -> None:
    gateway, origin = plain
    for field in REFUSED_FIELDS:
        data = b"GET / HTTP/1.1\r\nHost: gw.test\r\n" + field + b"\r\n\r\n"
        outcome = await play(gateway, origin, [data])
        assert outcome.statuses == [400], (field, outcome)
        assert outcome.upstream == [], field


async def test_r05_a_field_that_is_no_field_from_an_instance_becomes_502(plain: Plain) -> None:
    gateway, origin = plain
    for field in REFUSED_FIELDS:
        origin.respond = raw(b"HTTP/1.1 200 OK\r\n" + field + b"\r\nContent-Length: 2\r\n\r\nok")
        outcome = await play(gateway, origin, [b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n"])
        assert outcome.statuses == [502], (field, outcome)


async def test_r05_names_with_underscores_are_dropped_unless_a_setting_says_otherwise(
    plain: Plain,
) -> None:
    data = b"GET / HTTP/1.1\r\nHost: gw.test\r\nX_User: root\r\nX-User: me\r\n\r\n"

    async def passed(gateway: Gateway, origin: Origin, status: int) -> list[bytes]:
        outcome = await play(gateway, origin, [data])
        assert outcome.statuses == [status]
        return [value for one in origin.exchanges for value in one.all("x_user")]

    assert await passed(*plain, 200) == [], "what nobody said is drop"
    for policy, status, expected in (("pass", 200, [b"root"]), ("refuse", 400, [])):
        async with one_origin() as origin:
            settings = {"underscore_headers": policy}
            async with running_gateway(one_backend(origin), **settings) as gateway:
                assert await passed(gateway, origin, status) == expected, policy


async def test_r05_other_bytes_pass_unaltered_both_ways(plain: Plain) -> None:
    value = bytes(range(0x21, 0x7F)) + b" \t " + bytes(range(0x80, 0x100))
    answer = fixed(200, b"ok", [("X-Back", value.decode("latin-1")), ("x-lower-CASE", "1")])
    gateway, origin = plain
    origin.respond = answer
    async with wire(gateway.data_port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: gw.test\r\nX-There: " + value + b"\r\n\r\n")
        reply = await client.read_response()
    if reply.status == 400:
        assert origin.exchanges == []
        return
    assert origin.exchanges[0].all("x-there") == [value]
    assert dict(reply.headers)[b"x-back"] == value
