"""The units in deploy/systemd, installed as docs/how-to/systemd.md says, on a booted systemd."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import yaml

from tests.harness.booted import Machine, booted, needs_systemd
from tests.harness.exchange import Exchange
from tests.harness.gateway import eventually, one_backend
from tests.harness.load import Client, Reply
from tests.harness.origins import Origin, echo, one_origin
from tests.harness.ports import free_port

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), needs_systemd]

FILE = "/etc/headgate/headgate.yaml"
ENOUGH = 20_000


class Service:
    """The service on `machine`, before `origin`."""

    def __init__(self, machine: Machine, origin: Origin) -> None:
        self.machine, self.origin = machine, origin
        self.port, self._admin = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client()
        section = {"workers": 2, "lame_duck": "1s", "drain": "20s"}
        self.document = yaml.safe_dump({"gateway": section, **one_backend(origin)})

    async def install(self) -> None:
        ports = {"headgate.socket": self.port, "headgate-admin.socket": self._admin}
        for unit, port in ports.items():
            lines = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
            await self.machine.write(f"/etc/systemd/system/{unit}.d/port.conf", lines)
        await self.machine.write("/root/headgate.yaml", self.document)
        await self.machine.run("install", "-D", "-m", "644", "/root/headgate.yaml", FILE)
        units = "/opt/checkout/deploy/systemd/headgate*"
        await self.machine.run("sh", "-c", f"cp {units} /etc/systemd/system/")
        await self.systemctl("daemon-reload")
        enable = ("systemctl", "enable", "--now", *ports, "headgate.service")
        code, said = await self.machine.tried(*enable)
        assert code == 0, (said, await self.journal())

    async def systemctl(self, *words: str) -> str:
        return await self.machine.run("systemctl", *words)

    async def shown(self, name: str) -> str:
        said = await self.systemctl("show", "--property", name, "--value", "headgate.service")
        return said.strip()

    async def upgrade(self) -> None:
        """Returns when the successor is alone."""
        before = await self.shown("MainPID")
        program, state = "/opt/headgate/bin/headgate", "/var/lib/headgate"
        await self.machine.run(program, "upgrade", "--state-dir", state, "--timeout", "120")

        async def is_gone() -> bool:
            code, _ = await self.machine.tried("kill", "-0", before)
            return code != 0

        await eventually(is_gone, every_s=0.2)

    async def journal(self) -> str:
        words = ("-u", "headgate.service", "-o", "cat", "--no-pager")
        return await self.machine.run("journalctl", *words)

    async def stops(self) -> int:
        """How often systemd has begun to stop it."""
        return (await self.journal()).count("Stopping headgate.service")

    @asynccontextmanager
    async def loaded(self, enough: int) -> AsyncIterator[list[Reply]]:
        """What comes of requests, on kept connections and on new ones, of which there are at last
        so many."""
        replies: list[Reply] = []
        over = asyncio.Event()

        async def ask(fresh: bool) -> None:
            client = Client()
            while not over.is_set() or len(replies) < enough:
                fields = [("Connection", "close")] if fresh else []
                replies.append(await client.get(self.url, headers=fields, timeout=120))
                await asyncio.sleep(0.005)
            await client.close()

        asking = [asyncio.create_task(ask(number % 2 == 0)) for number in range(8)]
        try:
            yield replies
        finally:
            over.set()
            await asyncio.gather(*asking)


async def restarted(service: Service) -> None:
    """Nobody is refused by a reload, a restart or an upgrade."""
    async with service.loaded(ENOUGH) as replies:
        for _ in range(3):
            await service.systemctl("restart", "headgate")
            await service.machine.write(FILE, service.document.replace("drain: 20s", "drain: 21s"))
            await service.systemctl("reload", "headgate")
            await service.upgrade()
    assert len(replies) >= ENOUGH
    assert not [each for each in replies if not each.ok][:3]


async def finished(service: Service, end: Callable[[], Awaitable[object]]) -> None:
    """What is under way is answered by who `end`s."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await exchange.read()
        arrived.set()
        await go.wait()
        await echo(exchange)

    service.origin.respond = held
    asked = asyncio.create_task(service.client.get(service.url, timeout=60))
    await arrived.wait()
    service.origin.respond = echo
    before = await service.stops()
    ending = asyncio.ensure_future(end())

    async def is_stopping() -> bool:
        return await service.stops() > before

    await eventually(is_stopping, every_s=0.2)
    go.set()
    assert (await asked).status == 200
    await ending


async def watched(service: Service) -> None:
    """A process that says nothing any more is replaced; requests are answered meanwhile."""
    main, restarts = await service.shown("MainPID"), int(await service.shown("NRestarts"))
    await service.machine.run("kill", "-STOP", main)
    async with service.loaded(100) as replies:

        async def is_another() -> bool:
            return int(await service.shown("NRestarts")) > restarts

        await eventually(is_another, 120, "systemd replaces it", every_s=0.5)
    assert (await service.client.get(service.url, timeout=120)).ok
    # What the workers that are killed have under way is lost; nobody is refused.
    assert len([each for each in replies if not each.ok]) <= 8
    assert "Watchdog timeout" in await service.journal()


async def mended(service: Service) -> None:
    """With a broken file it is tried until the file is right; who comes waits, and is answered."""
    await service.machine.write(FILE, "nonsense: 1\n")
    before = int(await service.shown("NRestarts"))
    await service.machine.tried("systemctl", "restart", "headgate")
    asked = asyncio.create_task(service.client.get(service.url, timeout=180))

    async def is_tried() -> bool:
        return int(await service.shown("NRestarts")) > before + 8

    await eventually(is_tried, 120, "it is tried more often than systemd's default", every_s=0.5)
    assert not asked.done()
    await service.machine.write(FILE, service.document)
    assert (await asked).status == 200


async def test_the_service_does_what_its_page_says() -> None:
    async with one_origin() as origin, booted() as machine:
        service = Service(machine, origin)
        await service.install()
        first = await service.client.get(service.url)
        assert first.status == 200, (first, (await service.journal())[-3000:])
        await restarted(service)
        await finished(service, lambda: service.systemctl("restart", "headgate"))
        await service.upgrade()
        await finished(service, lambda: service.systemctl("stop", "headgate.service"))
        assert await service.shown("ActiveState") == "inactive"
        # The sockets are still there: who comes starts it.
        assert (await service.client.get(service.url, timeout=120)).status == 200
        await watched(service)
        await mended(service)
        said = await service.journal()
        assert "headgate is ready" in said
        assert '"level":"error"' not in said, said[-3000:]
        await service.systemctl("stop", "headgate.socket", "headgate-admin.socket", "headgate")
        assert not (await service.client.get(service.url)).status
        await service.client.close()
