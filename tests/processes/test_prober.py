"""Probing and resolving, with scripts for what instances and resolvers answer."""

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.watch import resolver as resolver_module
from gateway.controlplane.watch.asking import fetch
from gateway.controlplane.watch.health_book import Key
from gateway.controlplane.watch.prober import Prober, targets_of
from gateway.controlplane.watch.probing import Target, Untrusted, probe, signal_of
from gateway.controlplane.watch.resolver import Endpoints, Resolver, is_permitted, look_up
from gateway.core.credentials import Tls
from gateway.core.evidence import Evidence, by_backend
from gateway.core.health import HealthState
from gateway.core.table import Backend, Health, Table
from gateway.processes.connecting import connect_any
from gateway.processes.credentials import Credential, Held, Sources
from gateway.processes.event_loop import EventLoop
from gateway.processes.trusting import trusting
from tests.harness.black_hole import BlackHole
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.tls_instance import server_context

from .waiting import until

PROBES = {
    "r": "ready", "u": "unready", "l": "late", "x": "probe_refused", "t": "probe_unreachable",
}  # fmt: skip
FAST = {"interval": "20ms", "timeout": "300ms", "rise": 2, "fall": 3}


def table(*instances: str, health: dict[str, Any] = FAST) -> Table:
    backends = {"a": {"instances": list(instances), "health": health}}
    return Table.from_document({"backends": backends, "routes": {}}, 1)


class Script:
    """Answers each probe with the next letter per address; the last one stays.

    r: ready, u: unready, l: late, x: refused, t: unreachable, ?: could not be asked.
    """

    def __init__(self, **letters: str) -> None:
        self.letters = {int(port[1:]): list(text) for port, text in letters.items()}
        self.asked: dict[int, int] = {}

    async def __call__(self, target: Target) -> Any:
        self.asked[target.port] = self.asked.get(target.port, 0) + 1
        letters = self.letters[target.port]
        letter = letters.pop(0) if len(letters) > 1 else letters[0]
        return PROBES.get(letter)


class Watched:
    def __init__(self, script: Callable[[Target], Awaitable[Any]], **options: Any) -> None:
        self.changes: list[tuple[int, str, str]] = []
        self.told: list[tuple[str, float, str, str]] = []
        self.ejections: list[Any] = []
        self.prober = Prober(
            self.note,
            on_signals=self.told.extend,
            on_ejections=self.ejections.extend,
            probe=script,
            chance=lambda: 0.5,
            **options,
        )

    def met(self, *signals: tuple[int, str]) -> None:
        """Requests met this just now, at these ports."""
        now = time.monotonic()
        self.prober.hear([("a", now, f"127.0.0.1:{port}", name) for port, name in signals])

    def note(self, _words: Any, changes: Any) -> None:
        self.changes += [(int(key.address.split(":")[-1]), old, new) for key, old, new in changes]


@contextlib.asynccontextmanager
async def probing(
    script: Callable[[Target], Awaitable[Any]], **options: Any
) -> AsyncIterator[Watched]:
    watched = Watched(script, **options)
    try:
        yield watched
    finally:
        await watched.prober.close()


async def test_r30_an_instance_is_up_only_after_enough_good_probes() -> None:
    async with probing(Script(_1="uuurr")) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        assert it.prober.words == {"a": {"127.0.0.1:1": "starting"}}
        await until(lambda: it.changes == [(1, "starting", "up")])
        assert it.prober.words == {"a": {"127.0.0.1:1": "up"}}


async def test_a_gone_instance_is_down_and_a_failing_one_is_failing() -> None:
    async with probing(Script(_1="rrxxx", _2="rruuu")) as it:
        it.prober.sync(table("http://127.0.0.1:1", "http://127.0.0.1:2"))
        await until(lambda: {(1, "up", "down"), (2, "up", "failing")} <= set(it.changes))
        assert it.prober.words == {"a": {"127.0.0.1:1": "down", "127.0.0.1:2": "failing"}}


async def test_health_survives_edits_of_everything_else() -> None:
    async with probing(Script(_1="r", _2="r")) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        await until(lambda: bool(it.changes))
        it.prober.sync(table("http://127.0.0.1:2", "http://127.0.0.1:1"))
        assert it.prober.words["a"] == {"127.0.0.1:1": "up", "127.0.0.1:2": "starting"}
        it.prober.sync(table("http://127.0.0.1:2"))
        assert set(it.prober.words["a"]) == {"127.0.0.1:2"}


async def test_r57_an_instance_that_was_removed_and_comes_again_starts_clean() -> None:
    async with probing(Script(_1="r")) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        await until(lambda: bool(it.changes))
        it.prober.sync(table())
        it.prober.sync(table("http://127.0.0.1:1"))
        assert it.prober.words["a"] == {"127.0.0.1:1": "starting"}


async def test_what_an_earlier_control_process_knew_is_where_this_one_begins() -> None:
    async with probing(
        Script(_1="u"), remembered={"a": {"127.0.0.1:1": HealthState("up").told()}}
    ) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        assert it.prober.words == {"a": {"127.0.0.1:1": "up"}}


async def test_r24_a_nudge_asks_at_once() -> None:
    script = Script(_1="rrx")
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1", health={**FAST, "interval": "1h"}))
        await until(lambda: it.changes == [(1, "starting", "up")])
        it.met((1, "reset"), (9, "reset"))
        await until(lambda: (1, "up", "down") in it.changes)  # an hour before its turn


class Silent:
    """Instances that answer nothing from `silent` on: each probe waits for its timeout."""

    def __init__(self) -> None:
        self.silent, self.waiting, self.most_waiting = False, Counter[int](), 0

    async def __call__(self, target: Target) -> Any:
        if not self.silent:
            return "ready"
        self.waiting[target.port] += 1
        self.most_waiting = max(self.most_waiting, self.waiting[target.port])
        try:
            await asyncio.sleep(target.health.timeout_s)
        finally:
            self.waiting[target.port] -= 1
        return "late"


@pytest.mark.paced
async def test_r25_silence_is_noticed_within_as_many_intervals_as_failures_count() -> None:
    health = {"interval": "300ms", "timeout": "300ms", "rise": 1, "fall": 3}
    instances = Silent()
    async with probing(instances) as it:
        it.prober.sync(table(*(f"http://127.0.0.1:{n}" for n in range(1, 6)), health=health))
        await until(lambda: len(it.changes) == 5)
        instances.silent = True
        # The middle one of five counts: the turn of another may fall into a pause of the machine.
        took_s = await until(lambda: len(it.changes) >= 5 + 3, 5)
        assert took_s <= 0.3 * 3, took_s
        await until(lambda: len(it.changes) == 5 + 5)
        assert {new for _, _, new in it.changes[5:]} == {"failing"}
        instances.most_waiting = 0
        await asyncio.sleep(0.7)
        assert instances.most_waiting <= 3, "who is out is asked one after the other"
    assert instances.waiting.total() == 0, "nobody is asked any more"


@pytest.mark.paced
async def test_r25_an_answer_makes_older_silence_void() -> None:
    """Two probes of a pause are lost and the next ones are answered: that is no three in a row."""
    health = {"interval": "200ms", "timeout": "200ms", "rise": 1, "fall": 3}
    asked = 0

    async def pausing(_: Target) -> Any:
        nonlocal asked
        asked += 1
        if asked % 4 in (2, 3):
            await asyncio.sleep(0.2)
            return "late"
        return "ready"

    async with probing(pausing) as it:
        it.prober.sync(table("http://127.0.0.1:1", health=health))
        await until(lambda: asked > 16)
        assert it.changes == [(1, "starting", "up")]


@pytest.mark.paced
async def test_r32_the_first_sign_of_life_where_all_are_down_is_followed_up_at_once() -> None:
    script = Script(_1="rrxxxr", _2="rrxxxx")
    health = {**FAST, "interval": "1s"}
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1", "http://127.0.0.1:2", health=health))
        await until(lambda: sum(new == "down" for _, _, new in it.changes) == 2)
        # The next turn comes within 1.1 s; the second of two, alone, only another second later.
        assert await until(lambda: it.changes[-1] == (1, "down", "up"), 5) <= 1.6


async def test_whoever_is_well_is_known_to_be_so_after_the_first_look() -> None:
    async with probing(Script(_1="r", _2="u", _3="x")) as it:
        ports = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))
        it.prober.sync(table(*ports))
        await it.prober.judged(3)
        assert it.prober.words["a"]["127.0.0.1:1"] == "up"
        assert it.prober.words["a"]["127.0.0.1:2"] == "starting"


async def test_the_first_look_does_not_wait_for_who_hangs() -> None:
    async def hang(_: Target) -> Any:
        await asyncio.Event().wait()

    async with probing(hang) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        async with asyncio.timeout(30):
            await it.prober.judged(0.05)
        assert it.prober.words == {"a": {"127.0.0.1:1": "starting"}}


@contextlib.asynccontextmanager
async def answering(answer: bytes, hold_s: float = 0) -> AsyncIterator[Target]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hold_s:
                await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Target("127.0.0.1", port, Health(timeout_s=hold_s or 60.0))
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "signal"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "ready"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", "ready"),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "unready"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\r\n", "unready"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "unready"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "malformed"),
        (b"HTTP/1.1 OK\r\n\r\n", "malformed"),
        (b"", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "malformed"),
    ],
)
async def test_a_probe_wants_a_success_and_nothing_else(answer: bytes, signal: str) -> None:
    async with answering(answer) as target:
        assert await probe(target) == signal


@pytest.mark.parametrize("hears", [False, True], ids=["at once", "once it was asked"])
def test_whoever_resets_the_connection_after_the_handshake_may_ask_for_a_certificate(
    tmp_path: Path, hears: bool
) -> None:
    """By TLS 1.3 it learns only then that there is none: somebody listens, whenever we hear it."""
    ca, times = make_ca(tmp_path), 30
    theirs = server_context(make_certificate(tmp_path, "here", ca, "127.0.0.1"))
    held = Held(Sources(Tls(str(ca[0])), ()))
    held.take(Credential(trusting(str(ca[0])), b""))

    def resets(listening: socket.socket) -> None:
        for _ in range(times):
            with theirs.wrap_socket(listening.accept()[0], server_side=True) as peer:
                if hears:
                    select.select([peer], [], [])
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async def asked(target: Target) -> None:
        for _ in range(times):
            with pytest.raises(Untrusted, match="closes the connection when TLS is") as caught:
                await probe(target)
            assert caught.value.signal == "malformed"

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=resets, args=[listening], daemon=True).start()
        health, port = Health(timeout_s=60.0), listening.getsockname()[1]
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(asked(Target("127.0.0.1", port, health, "", "127.0.0.1", held)))


async def test_r25_a_probe_that_hangs_ends_in_time() -> None:
    async with answering(b"HTTP/1.1 200", hold_s=0.3) as target, asyncio.timeout(30):
        assert await probe(target) == "late"


async def test_nobody_there_is_told_from_unready() -> None:
    async with answering(b"") as target:
        pass
    assert await probe(target) == "probe_refused"


async def test_a_name_is_asked_at_the_first_of_its_addresses_that_takes_a_connection() -> None:
    """`localhost` is 127.0.0.1 and ::1, and an instance may listen at one of them alone."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with answering(answer) as target:
        elsewhere = replace(target, host="::1", others=(target.host,))
        assert await probe(elsewhere) == "ready"
        assert await fetch(elsewhere, "/info", 1000) == b"ok"
        assert await probe(elsewhere, is_ours=lambda host, _: host == "::1") == "ready"
        assert await probe(elsewhere, is_ours=lambda *_: True) == "probe_refused"
    assert await probe(elsewhere) == "probe_refused"
    assert await fetch(elsewhere, "/info", 1000) is None


async def test_a_silent_address_of_a_name_leaves_time_for_the_next() -> None:
    async def connect(host: str) -> str:
        if host == "silent":
            await asyncio.Event().wait()
        if host == "refuses":
            raise ConnectionRefusedError
        return host

    assert await connect_any(("silent", "refuses", "takes"), 0.3, connect) == "takes"
    with pytest.raises(TimeoutError):
        await connect_any(("silent", "refuses"), 0.02, connect)
    with pytest.raises(ConnectionRefusedError):
        await connect_any(("refuses", "silent"), 0.02, connect)


async def test_a_full_queue_of_connections_is_told_from_nobody_there() -> None:
    with contextlib.closing(BlackHole()) as hole:
        target = Target("127.0.0.1", hole.port, Health(timeout_s=0.2))
        assert await probe(target) == "probe_unreachable"


async def test_overload_is_not_taken_for_a_new_process() -> None:
    """A request got no connection in time and the probe after it is slow: that is one busy
    instance. Refused and then slow is another process, which loads."""
    script = Script(_1="rrl", _2="rrl")
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1", "http://127.0.0.1:2"))
        await until(lambda: len(it.changes) == 2)
        it.met((1, "unreachable"), (2, "refused"))
        await until(lambda: len(it.changes) == 4)
        assert set(it.changes[2:]) == {(1, "up", "failing"), (2, "up", "starting")}


async def test_what_probes_and_requests_say_is_replayed_by_who_comes_later() -> None:
    async with probing(Script(_1="rr", _2="rr")) as it:
        it.prober.sync(table("http://127.0.0.1:1", "http://127.0.0.1:2"))
        await until(lambda: len(it.changes) == 2)
        assert [name for _, _, _, name in it.told] == ["ready"] * 4
        it.met(*[(1, "reset")] * 4)
        it.met((1, "reset"))
        assert it.ejections == [], "the very same signal is told once"
        for _ in range(5):
            it.met((1, "reset"))
        assert [each[:2] for each in it.ejections] == [["a", "127.0.0.1:1"]]
        assert it.prober.health.ejected().keys() == {("a", "127.0.0.1:1")}
        (message,) = it.prober.health.messages()
        late = Evidence()
        states = {key: HealthState(*each) for key, each in message["states"]["a"].items()}
        late.judge_by(Backend("a"), frozenset(states), time.monotonic())
        late.load(states, by_backend(message["signals"])["a"], time.monotonic())
        known = {key: each.told() for key, each in late.states.items()}
        assert known == it.prober.health.states["a"]


async def test_r24_who_is_ready_again_is_no_longer_ejected() -> None:
    script = Script(_1="rr", _2="rr")
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1", "http://127.0.0.1:2"))
        await until(lambda: len(it.changes) == 2)
        for _ in range(2):
            it.met((1, "timeout"))
        assert it.prober.health.ejected()
        script.letters[1] = list("xxxr")
        await until(lambda: it.changes[-1] == (1, "down", "up"))
        assert not it.prober.health.ejected()
        assert it.ejections[-1] == ["a", "127.0.0.1:1", 0.0, 0]


async def test_an_answered_request_keeps_a_busy_instance_from_being_down() -> None:
    script = Script(_1="rrt")
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        await until(lambda: it.changes[-1:] == [(1, "up", "failing")])
        for _ in range(10):
            asked = script.asked[1]
            await until(lambda before=asked: script.asked[1] > before)
            it.met((1, "success"))
        assert it.prober.words == {"a": {"127.0.0.1:1": "failing"}}
        await until(lambda: it.changes[-1] == (1, "failing", "down"))


def test_only_2xx_is_success() -> None:
    heads = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204\r\n", b"HTTP/1.1 \r\n", b"", b"HTTP/1.1 404 x"]
    assert [signal_of(head) == "ready" for head in heads] == [True, True, False, False, False]


class Names:
    """A resolver whose answers are set by the test; None: it is broken."""

    def __init__(self, **names: list[str] | None) -> None:
        self.names, self.asked = names, 0

    async def __call__(self, host: str, _port: int) -> list[str]:
        self.asked += 1
        found = self.names[host]
        if found is None:
            raise OSError("no answer")
        return list(found)


@contextlib.asynccontextmanager
async def resolving(names: Names) -> AsyncIterator[tuple[Resolver, list[Endpoints], list[str]]]:
    heard: list[Endpoints] = []
    said: list[str] = []
    resolver = Resolver(
        heard.append, look_up=names, every_s=0.01, chance=lambda: 0.5, say=said.append
    )
    try:
        yield resolver, heard, said
    finally:
        await resolver.close()


async def test_r34_a_name_that_moves_is_followed() -> None:
    names = Names(model=["10.0.0.1"])
    async with resolving(names) as (resolver, heard, _):
        resolver.sync(table("dns+http://model:80"))
        await resolver.resolved(2)
        assert heard == [{"a": {"dns+http://model:80": ["10.0.0.1"]}}]
        names.names["model"] = ["10.0.0.2", "10.0.0.3"]
        await until(lambda: len(heard) == 3)
        known = [each["a"]["dns+http://model:80"] for each in heard]
        # The old address stays until the new ones can have been probed.
        assert known[1] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        assert known[2] == ["10.0.0.2", "10.0.0.3"]


async def test_r34_a_broken_resolver_changes_nothing_and_is_named_once() -> None:
    names = Names(model=["10.0.0.1"])
    async with resolving(names) as (resolver, heard, said):
        resolver.sync(table("http://model:80"))
        await resolver.resolved(2)
        names.names["model"] = None
        asked = names.asked
        await until(lambda: names.asked > asked + 3)
        assert len(heard) == 1
        assert said == ["cannot resolve model: no answer; keeping 10.0.0.1"]
        names.names["model"] = ["10.0.0.9"]
        await until(lambda: len(heard) == 2)


async def test_r34_names_whose_server_keeps_silent_hold_up_no_other_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-up cannot be ended, and the loop has threads for a few of them only."""
    go = threading.Event()

    def getaddrinfo(host: str, port: int, **_more: Any) -> list[Any]:
        if host != "model":
            go.wait(60)
            raise OSError("no server answered")
        return [(0, 0, 0, "", ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    silent = [asyncio.create_task(look_up(f"silent-{n}", 80)) for n in range(40)]
    try:
        assert await look_up("model", 80) == ["10.0.0.1"]
        assert not any(each.done() for each in silent)
    finally:
        go.set()
    ended = await asyncio.gather(*silent, return_exceptions=True)
    assert {str(each) for each in ended} == {"no server answered"}


async def test_r34_what_is_answered_late_is_heard_and_not_asked_twice_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module, "LOOK_UP_WITHIN_S", 0.01)
    names, go = Names(model=["10.0.0.1"]), asyncio.Event()

    async def slow(host: str, port: int) -> list[str]:
        found = await names(host, port)
        await go.wait()
        return found

    said: list[str] = []
    resolver = Resolver(lambda _: None, look_up=slow, every_s=0.01, say=said.append)
    try:
        resolver.sync(table("http://model:80"))
        await until(lambda: bool(said))
        expected = "cannot resolve model: no answer in time; keeping it without an address"
        assert said == [expected]
        for _ in range(50):  # turns, in which it would be asked again
            await asyncio.sleep(0.002)
        assert names.asked == 1
        go.set()
        await until(lambda: resolver.endpoints == {"a": {"http://model:80": ["10.0.0.1"]}})
    finally:
        await resolver.close()


async def test_r34_where_every_answer_is_late_each_is_heard_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of a machine's name servers is down: five seconds, and the next one is asked."""
    monkeypatch.setattr(resolver_module, "LOOK_UP_WITHIN_S", 0.01)
    names, given_up = Names(model=["10.0.0.1"]), asyncio.Event()
    said: list[str] = []

    async def late(host: str, port: int) -> list[str]:
        if not said:
            await given_up.wait()
        else:
            await asyncio.sleep(0.02)
        return await names(host, port)

    def say(text: str) -> None:
        said.append(text)
        given_up.set()

    resolver = Resolver(lambda _: None, look_up=late, every_s=0.01, say=say)
    try:
        resolver.sync(table("http://model:80"))
        await until(lambda: resolver.endpoints == {"a": {"http://model:80": ["10.0.0.1"]}})
        assert names.asked == 1
        names.names["model"] = ["10.0.0.2"]
        await until(lambda: resolver.endpoints == {"a": {"http://model:80": ["10.0.0.2"]}})
        assert len(said) == 1
    finally:
        await resolver.close()


async def test_an_order_that_turns_around_moves_nobody() -> None:
    names = Names(model=["10.0.0.1", "10.0.0.2"])
    async with resolving(names) as (resolver, heard, _):
        resolver.sync(table("http://model:80"))
        await resolver.resolved(2)
        names.names["model"] = ["10.0.0.2", "10.0.0.1"]
        asked = names.asked
        await until(lambda: names.asked > asked + 3)
        assert len(heard) == 1


async def test_a_name_already_known_serves_a_new_url_at_once() -> None:
    async with resolving(Names(model=["10.0.0.1"])) as (resolver, heard, _):
        resolver.sync(table("http://model:80"))
        await resolver.resolved(2)
        resolver.sync(table("http://model:80", "http://model:81"))
        assert heard[-1] == {
            "a": {"http://model:80": ["10.0.0.1"], "http://model:81": ["10.0.0.1"]}
        }
        resolver.sync(table())
        assert resolver.endpoints == {}


async def test_r61_a_name_that_leads_astray_is_not_followed() -> None:
    names = Names(model=["10.0.0.1"])
    async with resolving(names) as (resolver, heard, said):
        resolver.sync(table("http://model:80"))
        await resolver.resolved(2)
        names.names["model"] = ["169.254.169.254", "0.0.0.0"]
        await until(lambda: bool(said))
        assert resolver.endpoints == heard[0]
        names.names["model"] = ["169.254.169.254", "10.0.0.2"]
        await until(lambda: len(heard) == 3)
        assert heard[2] == {"a": {"http://model:80": ["10.0.0.2"]}}


def test_r61_networks_of_the_settings_hold_for_names_too() -> None:
    assert is_permitted("10.1.2.3", ["10.0.0.0/8", "fd00::/8"])
    assert not is_permitted("192.168.1.1", ["10.0.0.0/8", "fd00::/8"])


async def test_a_probe_that_could_not_be_made_says_nothing() -> None:
    script = Script(_1="rr?")
    async with probing(script) as it:
        it.prober.sync(table("http://127.0.0.1:1"))
        await until(lambda: script.asked.get(1, 0) > 8)
        assert it.changes == [(1, "starting", "up")]


def test_every_address_of_a_dns_name_is_an_instance() -> None:
    both = table("dns+http://model:80", "http://other:81", "http://[::1]:82", "http://10.1.1.1:83")
    endpoints = {
        "a": {
            "dns+http://model:80": ["10.0.0.1", "fd00::1"],
            "http://other:81": ["10.0.0.3", "::9"],
        }
    }
    found = targets_of(both, endpoints)
    assert {key: (target.host, *target.others) for key, target in found.items()} == {
        Key("a", "10.0.0.1:80"): ("10.0.0.1",),
        Key("a", "[fd00::1]:80"): ("fd00::1",),
        Key("a", "other:81"): ("10.0.0.3", "::9"),
        Key("a", "[::1]:82"): ("::1",),
        Key("a", "10.1.1.1:83"): ("10.1.1.1",),
    }


@pytest.mark.parametrize(
    ("address", "permitted"),
    [
        ("10.0.0.1", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("169.254.169.254", False),
        ("::ffff:169.254.169.254", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_r61_a_name_cannot_lead_everywhere(address: str, permitted: bool) -> None:
    assert is_permitted(address) is permitted
