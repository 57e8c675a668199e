"""R61: no name and no address leads through the data plane to the gateway itself."""

import asyncio
import socket

import pytest

from gateway.controlplane.configuration.reading import ConfigurationError, parse
from gateway.controlplane.watch.probing import Target, probe
from gateway.controlplane.watch.resolver import Endpoints, Resolver
from gateway.core.table import Health, Table
from gateway.processes.sockets import is_here
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.ports import free_port

TOKEN = "operator-token-that-is-long-enough-0001"
PORT = 8081


def own_name() -> str:
    """A name of this machine that is not `localhost`; skips where it has none."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        pytest.skip("this machine's own name has no address")
    if not is_here(address):
        pytest.skip("this machine's own name leads elsewhere")
    return name


@pytest.mark.parametrize("scheme", ["http", "dns+http"])
@pytest.mark.parametrize("wildcard", ["0.0.0.0", "[::]"])
async def test_r61_a_name_that_leads_to_the_admin_listener_gets_no_request(
    scheme: str, wildcard: str
) -> None:
    admin = free_port()
    document = one_backend(f"{scheme}://{own_name()}:{admin}", health={"path": "/livez"})
    settings = {"admin": f"{wildcard}:{admin}", "token": TOKEN}
    async with running_gateway(document, up=False, **settings) as gateway:
        # Were it ever probed, it would be well within a second, and answer.
        for _ in range(15):
            reply = await gateway.client.get(
                f"{gateway.url}/admin/v1/table",
                headers=[("Host", "localhost"), ("Authorization", f"Bearer {TOKEN}")],
            )
            assert reply.status == 503, reply.body
            await asyncio.sleep(0.1)
        await gateway.logged("leads to the gateway itself")


def test_r61_an_address_of_this_machine_on_our_port_is_refused_as_an_instance() -> None:
    address = socket.gethostbyname(own_name())
    text = """
gateway: {admin: "WILDCARD:8081", listen: "127.0.0.1:8082"}
backends: {a: {instances: ["http://ADDRESS:8081", "http://127.0.0.3:8081", "http://127.0.0.1:8083"]}}
"""
    for wildcard in ("0.0.0.0", "[::]"):
        said = text.replace("WILDCARD", wildcard).replace("ADDRESS", address)
        with pytest.raises(ConfigurationError) as refused:
            parse(said)
        places = [problem.pointer for problem in refused.value.problems]
        assert places == ["/backends/a/instances/0", "/backends/a/instances/1"]


class Names:
    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    async def look_up(self, host: str, port: int) -> list[str]:
        return self.addresses


def table(url: str) -> Table:
    return Table.from_document({"backends": {"a": {"instances": [url]}}}, 1)


async def resolved(names: Names, url: str, *later: list[str]) -> list[Endpoints]:
    """What a resolver said of `url` at first and after each of `later` answers."""
    said: list[Endpoints] = []
    lines: list[str] = []
    resolver = Resolver(
        said.append,
        look_up=names.look_up,
        every_s=0.02,
        is_ours=lambda host, port: (host, port) == ("127.0.0.1", PORT),
        say=lines.append,
    )
    resolver.sync(table(url))
    await resolver.resolved(60)
    found = [resolver.endpoints]
    for answer in later:
        names.addresses = answer
        await asyncio.sleep(0.2)
        found.append(resolver.endpoints)
    await resolver.close()
    assert len(lines) <= 1, "said once"
    return found


async def test_r61_a_name_that_changes_to_the_gateway_itself_keeps_where_it_led() -> None:
    url = f"http://model.test:{PORT}"
    good, bad = await resolved(Names(["192.0.2.1"]), url, ["127.0.0.1"])
    assert good == bad == {"a": {url: ["192.0.2.1"]}}


async def test_r61_of_several_addresses_only_the_gateways_own_is_left_out() -> None:
    url = f"dns+http://model.test:{PORT}"
    (found,) = await resolved(Names(["127.0.0.1", "192.0.2.1"]), url)
    assert found == {"a": {url: ["192.0.2.1"]}}
    other = "dns+http://model.test:9000"
    (found,) = await resolved(Names(["127.0.0.1"]), other)
    assert found == {"a": {other: ["127.0.0.1"]}}


async def test_r61_a_probe_never_asks_the_gateway_itself() -> None:
    asked: list[int] = []

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(attend, "127.0.0.1", 0)
    target = Target("127.0.0.1", server.sockets[0].getsockname()[1], Health())
    assert await probe(target) == "ready"
    assert await probe(target, is_ours=lambda _host, _port: True) == "probe_refused"
    assert asked == [1]
    server.close()
