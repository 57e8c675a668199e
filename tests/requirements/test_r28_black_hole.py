"""R28: an address that swallows connections costs its connect timeout, and others take over."""

import socket

from tests.harness.gateway import backend, eventually, one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import origins

CALM = {"interval": "1s", "timeout": "1s", "rise": 1, "fall": 3}


class BlackHole:
    """A listener with a full backlog: the kernel drops every further SYN."""

    def __init__(self, port: int) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(0)
        self.fill = [self._connect(port) for _ in range(4)]

    def _connect(self, port: int) -> socket.socket:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        return one

    def close(self) -> None:
        for one in (*self.fill, self.listener):
            one.close()


async def test_r28_a_black_hole_costs_the_connect_timeout_and_is_tried_elsewhere() -> None:
    async with origins(2) as stubs:
        document = one_backend(
            *stubs,
            health=CALM,
            timeouts={"connect": "500ms"},
            eject={"base": "1s"},
            route={"retries": {"attempts": 2, "on": ["connect_failure", "reset"]}},
        )
        async with running_gateway(document) as gateway:
            await gateway.client.get(f"{gateway.url}/warm")
            await stubs[0].stop()
            hole = BlackHole(stubs[0].port)
            try:
                replies = await open_loop(gateway.url, 10, 3, lambda n: Ask(path=f"/{n}"))
            finally:
                hole.close()
            slow = [r for r in replies if r.took_s > 0.4]
            assert failures(replies) == []
            assert slow, "nothing was sent to the black hole"
            assert all(r.took_s < 1.5 for r in slow), [r.took_s for r in slow]
            await stubs[0].start()
            stubs[0].exchanges.clear()

            async def back() -> bool:
                await gateway.client.get(f"{gateway.url}/back")
                return bool(stubs[0].exchanges)

            await eventually(back, 3.5, "traffic after the hole was filled")


async def test_r28_an_established_flow_that_falls_silent_ends_at_its_timeout() -> None:
    async with origins(1) as (stub,):

        async def silent(exchange) -> None:
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await exchange.gone.wait()

        stub.respond = silent
        document = {
            "backends": {"main": backend(stub, timeouts={"idle": "500ms"})},
            "routes": {"all": {"match": "/", "split": {"main": 1}}},
        }
        async with running_gateway(document) as gateway:
            reply = await gateway.client.get(f"{gateway.url}/x", timeout=3)
    assert reply.error in ("closed_mid_body", "reset_mid_body")
    assert reply.took_s < 2
