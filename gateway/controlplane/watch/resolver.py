"""Which IP addresses are behind the names of the table?

Every name is looked up again every few seconds, by the system's own resolver, so that a
`dns+http` backend follows what is scaled and a moved name is followed at all. A name that
cannot be looked up keeps the addresses it had: a broken resolver must not take a working
service down. This module refuses to judge whether anything answers at an address.
"""

import asyncio
import ipaddress
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial

from gateway.controlplane.watch.health_book import Key
from gateway.core.addresses import refusal
from gateway.core.table import Instance, Table
from gateway.processes.own_thread import in_own_thread
from gateway.processes.tasks import PAUSE_S, Tasks, told

EVERY_S = 3.0
LOOK_UP_WITHIN_S = 5.0
AT_ONCE = 200  # names that are looked up, each in a thread

Endpoints = dict[str, dict[str, list[str]]]
LookUp = Callable[[str, int], Awaitable[list[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """Every A and AAAA record of `host`, IPv4 first; OSError when there is no answer.

    In a thread of its own: the loop has very few for names, and each waits for half a minute and
    more where a name's server keeps silent, so that two of them would hold up every other name.
    """
    found = await in_own_thread(
        f"name {host}", lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return sorted({str(info[4][0]) for info in found}, key=lambda text: (":" in text, text))


@lru_cache(16_384)  # asked for every instance of the table, again and again
def is_name(host: str) -> bool:
    """Whether `host` has to be looked up: it is no IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def is_permitted(address: str, networks: Sequence[str] = ()) -> bool:
    """Whether a name may lead to `address`: into `networks`, or anywhere sensible without any.

    Whoever answers for a name must not be able to point the gateway at a cloud's metadata
    service or at "every address of this machine". Workers connect only to what passes here.
    """
    return not refusal(address.partition("%")[0], networks)


def addresses_of(instance: Instance, known: Sequence[str]) -> list[tuple[str, Sequence[str], int]]:
    """[(identity, hosts of which any is connected to, port)] of what `instance` stands for.

    `known` are the addresses behind its name; nothing while a name was never resolved. A
    `dns+http` URL is one instance per address, a fleet's one per address and port, any other name
    one at the first of its addresses that takes a connection.
    """
    if instance.fleet:
        parts = [(address, *address.rpartition(":")[::2]) for address in known]
        return [(address, [host.strip("[]")], int(port)) for address, host, port in parts]
    if instance.dns:
        hosts = list(known) if is_name(instance.host) else [instance.host]
        return [(Instance("", h, instance.port).address, [h], instance.port) for h in hosts]
    hosts = list(known) if is_name(instance.host) else [instance.host]
    return [(instance.address, hosts, instance.port)] if hosts else []


class Resolver:
    """Keeps `endpoints` true; `on_change` is called whenever they changed."""

    def __init__(
        self,
        on_change: Callable[[Endpoints], None],
        *,
        look_up: LookUp = look_up,
        networks: Sequence[str] = (),
        is_ours: Callable[[str, int], bool] = lambda _host, _port: False,
        remembered: Endpoints | None = None,
        every_s: float = EVERY_S,
        chance: Callable[[], float] = random.random,
        say: Callable[[str], None] = lambda _: None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.endpoints: Endpoints = remembered or {}
        self._on_change, self._look_up, self._say = on_change, look_up, say
        self._every_s, self._chance, self._networks = every_s, chance, networks
        self._is_ours = is_ours
        self._names: dict[str, set[tuple[str, str, int]]] = {}
        self._own = Tasks(self._note_failure, pause_s=pause_s)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._look_ups = Tasks(lambda name, error: None)  # who waits for one hears of it
        self._room = asyncio.Semaphore(AT_ONCE)
        self._silent: dict[str, str] = {}
        self._ourselves: set[tuple[str, int]] = set()
        self._missed: dict[str, set[str]] = {}
        self._fleets: set[tuple[str, str]] = set()

    def set_fleet(self, backend: str, url: str, addresses: Sequence[str]) -> None:
        """A fleet has these addresses, ports and all, for `url` of `backend`: nothing of them is
        looked up."""
        if list(self.endpoints.get(backend, {}).get(url, ())) != list(addresses):
            others = self.endpoints.get(backend, {})
            self.endpoints = {**self.endpoints, backend: {**others, url: list(addresses)}}
            self._on_change(self.endpoints)

    def sync(self, table: Table) -> None:
        """Looks up what `table` names, at once what is new, and forgets what it no longer does."""
        names: dict[str, set[tuple[str, str, int]]] = {}
        fleets: set[tuple[str, str]] = set()
        for backend in table.backends.values():
            for instance in backend.instances:
                if instance.fleet:
                    fleets.add((backend.name, instance.url))
                elif is_name(instance.host):
                    use = (backend.name, instance.url, instance.port)
                    names.setdefault(instance.host, set()).add(use)
        for host in self._tasks.keys() - names.keys():
            self._tasks.pop(host).cancel()
            del self._asked[host]
            self._missed.pop(host, None)
            self._silent.pop(host, None)
        before = self._names
        self._names, self._fleets = names, fleets
        self._prune()
        for host, uses in names.items():
            if host not in self._tasks:
                self._asked[host] = asyncio.Event()
                self._tasks[host] = self._own.keep(f"resolving {host}", partial(self._keep, host))
            elif uses != before.get(host):
                self._share(host)

    def causes(self) -> dict[Key, str]:
        """Why each instance whose name was never resolved has no address."""
        return {
            Key(backend, f"{host}:{port}"): f"has no address: {why}"
            for host, why in self._silent.items()
            for backend, _, port in self._names[host]
            if not self._known(host)
        }

    async def resolved(self, within_s: float) -> None:
        """Returns once every name has been looked up, or after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                for asked in list(self._asked.values()):
                    await asked.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        await self._own.close()
        await self._look_ups.close()

    def _note_failure(self, name: str, error: Exception) -> None:
        self._say(f"{name} ended, a fault in headgate itself: {told(error)}; beginning again")

    async def _keep(self, host: str) -> None:
        while True:
            await self._resolve(host)
            self._asked[host].set()
            # Spread out, or all names of a big table would be asked for at the same moment.
            await asyncio.sleep(self._every_s * (0.8 + 0.4 * self._chance()))

    async def _resolve(self, host: str) -> None:
        port = next(iter(self._names[host]))[2]
        answer = self._look_ups.run(f"looking up {host}", self._answered(host, port))
        try:
            await asyncio.wait([answer], timeout=LOOK_UP_WITHIN_S)
            if is_late := not answer.done():
                self._keep_known(host, "no answer in time")
                self._asked[host].set()
            # Where the first of a machine's name servers is silent, every answer is a late one.
            found = self._permitted(await asyncio.shield(answer))
        except (OSError, UnicodeError) as error:
            self._keep_known(host, str(error))
            return
        if not is_late:
            self._silent.pop(host, None)
        before = self._known(host)
        missed, self._missed[host] = self._missed.get(host, set()), set(before) - set(found)
        # An address goes when it was missing twice: by then its successors have been probed,
        # and traffic moves without a gap. What was there keeps its place: a name that is one
        # instance then stays where it is while its resolver merely turns the order around.
        kept = [address for address in before if address in found or address not in missed]
        self._set(host, kept + [address for address in found if address not in kept])

    def _keep_known(self, host: str, why: str) -> None:
        """There is no answer now: what was known of `host` stays. Says so once."""
        if host not in self._silent:
            self._silent[host] = why
            known = ", ".join(self._known(host)) or "it without an address"
            self._say(f"cannot resolve {host}: {why}; keeping {known}")
        self._drop_missed(host)

    async def _answered(self, host: str, port: int) -> list[str]:
        async with self._room:
            return await self._look_up(host, port)

    def _drop_missed(self, host: str) -> None:
        """What the last answer no longer held goes now: it was only kept until its successors
        had been probed, and is not what the name led to last."""
        missed = self._missed.pop(host, set())
        if missed and (left := [each for each in self._known(host) if each not in missed]):
            self._set(host, left)

    def _permitted(self, found: Sequence[str]) -> list[str]:
        kept = [address for address in found if is_permitted(address, self._networks)]
        if not kept:
            raise OSError("it leads to addresses only that no instance may have")
        return kept

    def _known(self, host: str) -> list[str]:
        for backend, url, _ in self._names.get(host, ()):
            if known := self.endpoints.get(backend, {}).get(url):
                return known
        return []

    def _share(self, host: str) -> None:
        if known := self._known(host):
            self._set(host, known)

    def _set(self, host: str, addresses: Sequence[str]) -> None:
        changed = {name: dict(urls) for name, urls in self.endpoints.items()}
        for backend, url, port in self._names.get(host, ()):
            others = [address for address in addresses if not self._is_ours(address, port)]
            self._say_of_own(host, port, len(others) < len(addresses))
            # A name that has come to lead to ourselves keeps where it led before.
            if others or not addresses:
                changed.setdefault(backend, {})[url] = others
        if changed != self.endpoints:
            self.endpoints = changed
            self._on_change(changed)

    def _say_of_own(self, host: str, port: int, is_own: bool) -> None:
        """Says once that a name leads to the gateway itself, until it no longer does."""
        if is_own and (host, port) not in self._ourselves:
            self._say(f"{host}:{port} leads to the gateway itself; no request is sent there")
        (self._ourselves.add if is_own else self._ourselves.discard)((host, port))

    def _prune(self) -> None:
        """Forgets the endpoints of URLs that the table no longer has; tells nobody: the table
        itself, which is on its way, says so."""
        used = {(backend, url) for uses in self._names.values() for backend, url, _ in uses}
        used |= self._fleets
        pruned: Endpoints = {}
        for backend, urls in self.endpoints.items():
            for url, addresses in urls.items():
                if (backend, url) in used:
                    pruned.setdefault(backend, {})[url] = addresses
        self.endpoints = pruned
