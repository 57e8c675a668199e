"""Several gateways with one table in etcd, as processes: what they promise, whatever dies."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.controlplane.store.etcd import client as etcd
from gateway.controlplane.store.etcd.rollout_keys import unpacked
from tests.harness.etcd import Cluster, etcd_cluster, protect, shut_out
from tests.harness.gateway import ROOT, Gateway, backend, eventually, one_backend, running_gateway
from tests.harness.link import link_to
from tests.harness.load import Client, Reply
from tests.harness.origins import Exchange, Origin, after, origins
from tests.harness.ports import free_port
from tests.harness.succession import command, holder, upgrade

LEASE = "4s"  # a process of a busy machine may stand still for two, and is not lost


def settings(cluster: Cluster, node: str, **more: Any) -> dict[str, Any]:
    spec = {"endpoints": cluster.urls, "prefix": "/headgate/test", "lease": LEASE}
    return {"store": "etcd", "etcd": spec, "node": node, **more}


@asynccontextmanager
async def gateways(
    cluster: Cluster,
    names: str,
    *,
    lost: str = "",
    canary: bool = False,
    origin: Origin | None = None,
    **more: Any,
) -> AsyncIterator[list[Gateway]]:
    """A gateway of each of these names, started at once; those of `lost` refuse when lost."""
    async with AsyncExitStack() as stack:
        if origin is None:
            (origin,) = await stack.enter_async_context(origins(1, after(0.001)))
        document = one_backend(origin)
        if canary:
            document["backends"]["new"] = backend(origin)
            document["routes"]["all"]["split"] = {"main": 1, "new": 0}
        started = [
            stack.enter_async_context(
                running_gateway(
                    document,
                    check_end=False,
                    **settings(
                        cluster,
                        f"gw-{name}",
                        store_lost="refuse" if name in lost else "serve",
                        **more,
                    ),
                )
            )
            for name in names
        ]
        yield list(await asyncio.gather(*started))


async def edit(gateway: Gateway, weight: int, **more: Any) -> Reply:
    path = "/admin/v1/routes/all/weights"
    return await gateway.admin("PUT", path, {"main": weight}, timeout=60, **more)


async def applied(gateway: Gateway, weight: int) -> dict[str, Any]:
    """Where an edit is in force, which must have been made."""
    reply = await edit(gateway, weight)
    assert reply.status == 200, (reply.body, gateway.log_text()[-2000:])
    return dict(reply.json()["applied"])


async def revision(gateway: Gateway) -> int:
    """The revision by which `gateway` decides; 0 where it refuses."""
    reply = await gateway.client.get(f"{gateway.url}/x")
    return int(reply.header("X-Headgate-Revision") or 0) if reply.ok else 0


async def healthy(gateway: Gateway) -> bool:
    reply = await gateway.client.get(f"{gateway.url}/-/health")
    return bool(reply.status == 200)


async def ready(gateway: Gateway) -> bool:
    reply = await gateway.client.get(f"{gateway.url}/-/health?exclude=lease")
    return bool(reply.status == 200)


async def edits(to: Gateway, asked: Sequence[Gateway], count: int) -> list[int]:
    """The revisions of `count` edits; none of those `asked` answers by an older one after each."""
    made = []
    for n in range(count):
        reply = await edit(to, 2 + n % 50)
        assert reply.status == 200, reply
        made.append(reply.json()["revision"])
        for found in await asyncio.gather(*(revision(each) for each in asked)):
            assert found >= made[-1] or not found
    return made


def send(gateway: Gateway, number: signal.Signals) -> None:
    """Sends `number` to all processes of `gateway`: its machine stops, goes on, or dies, in which
    none of them sees another one end."""
    for each in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):
        for process in gateway.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(each)


def at_once(made: Sequence[Sequence[int]]) -> None:
    numbers = sorted(number for each in made for number in each)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no gaps, none twice"


async def prove(cluster: Cluster, count: int, workers: int) -> None:
    async with gateways(cluster, "abc", lost="b", workers=workers) as all_three:
        a, b, c = all_three
        for each in all_three:
            await eventually(lambda each=each: healthy(each))  # type: ignore[misc]
        assert [await revision(each) for each in all_three] == [1, 1, 1], "one file, one revision"

        at_once(await asyncio.gather(*(edits(each, all_three, count) for each in all_three)))
        assert await applied(a, 60) == {"gateways": 3, "workers": 3 * workers, "lost": []}
        behind = {"gw-a": 0, "gw-b": 0, "gw-c": 0}
        await eventually(lambda: _shows(b, behind), what="every gateway shows all of them")

        # A condition that holds no more is no conflict to be tried again.
        tag = (await b.admin("GET", "/admin/v1/routes/all/weights")).header("ETag")
        assert (await edit(a, 61)).status == 200
        assert (await edit(b, 62, headers=[("If-Match", tag)])).status == 412

        # A gateway dies: edits wait for its lease, once, and name it.
        send(c, signal.SIGKILL)
        two = {"gateways": 2, "workers": 2 * workers, "lost": ["gw-c"]}
        assert await applied(a, 63) == two

        # One is stopped and goes on: it refuses rather than answering by its old table.
        send(b, signal.SIGSTOP)
        asked = [asyncio.create_task(revision(b)) for _ in range(5)]
        assert (await applied(a, 64))["lost"] == ["gw-b", "gw-c"]
        newest = await revision(a)
        send(b, signal.SIGCONT)
        assert all(found in (0, newest) for found in await asyncio.gather(*asked))
        await eventually(lambda: healthy(b))
        assert await revision(b) == newest
        assert (await applied(b, 65))["gateways"] == 2

        # etcd is away: requests are answered, edits are refused and leave nothing half done.
        before = await revision(a)
        cluster.kill()
        await eventually(lambda: _not(healthy(a)))
        await eventually(lambda: _not(healthy(b)))
        assert [await ready(a), await ready(b)] == [True, False], "who would answer, and who not"
        reply = await edit(a, 66)
        assert (reply.status, reply.json()["code"]) == (503, "store_unavailable")
        assert await revision(a) == before
        refused = await b.client.get(f"{b.url}/x")
        assert (refused.status, refused.header("X-Headgate-Error")) == (503, "store_lost")
        cluster.start()
        await eventually(lambda: healthy(a))
        await eventually(lambda: healthy(b))
        assert (await applied(b, 67))["gateways"] == 2
        at_once([[before, await revision(a)]])


async def test_a_rollout_is_driven_by_one_gateway_and_goes_on_at_another() -> None:
    plan = {
        "to": "new", "steps": [10, 50, 100], "hold": "1s", "min_requests": 1, "warmup": 0,
        "guards": {"errors": {}},
    }  # fmt: skip
    path = "/admin/v1/routes/all/rollout"
    with etcd_cluster() as cluster:
        async with gateways(cluster, "ab", canary=True) as (a, b):
            for each in (a, b):
                await eventually(lambda each=each: healthy(each))  # type: ignore[misc]
            begun = await a.admin("PUT", path, plan, timeout=60)
            assert begun.status == 201, begun
            await eventually(lambda: _rollout(b, "running"))
            assert begun.json()["driver"] == await _driver(a) == await _driver(b) == "gw-a"
            refused = await b.admin("POST", f"{path}/pause", {})
            assert refused.status == 409
            assert "driven by gateway gw-a" in refused.json()["detail"]
            weights = await b.admin("PUT", "/admin/v1/routes/all/weights", {"main": 1, "new": 1})
            assert weights.status == 409, "its split is nobody else's to edit"
            assert (await a.admin("POST", f"{path}/pause", {}, timeout=60)).status == 200
            await eventually(lambda: _rollout(b, "paused"))
            send(a, signal.SIGKILL)

            async def resumed() -> bool:
                reply = await b.admin("POST", f"{path}/resume", {}, timeout=60)
                return bool(reply.status == 200)

            await eventually(resumed, 60)
            assert await _driver(b) == "gw-b"

            async def done() -> bool:
                await asyncio.gather(*(b.client.get(f"{b.url}/x") for _ in range(20)))
                return await _rollout(b, "done")

            await eventually(done, 90)
            assert await _driver(b) == "", "nobody's any more"
            spec = (await b.admin("GET", "/admin/v1/routes/all/weights")).json()
            assert spec["weights"]["main"] == 0
            history = (await b.admin("GET", "/admin/v1/history")).json()["revisions"]
            numbers = [each["revision"] for each in history]
            assert numbers == list(range(numbers[0], 0, -1))


async def test_what_a_rollout_has_counted_stays_counted_when_its_driver_begins_again() -> None:
    plan = {"to": "new", "steps": [50, 100], "hold": "1h", "warmup": 0, "guards": {"errors": {}}}
    path = "/admin/v1/routes/all/rollout"
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a", canary=True) as (a,):
            await eventually(lambda: healthy(a))
            assert (await a.admin("PUT", path, plan, timeout=60)).status == 201

            async def counted() -> int:
                guard = (await a.admin("GET", path)).json()["guards"]["errors"]
                return int(guard["canary"]["requests"] + guard["stable"]["requests"])

            async def is_kept() -> bool:
                client = etcd.Client(etcd.Access(cluster.urls))
                asked = [etcd.get(b"/headgate/test/rollout-states/all")]
                (found,) = (await etcd.transact(client, asked)).found
                await client.close()
                counts = unpacked({"all": found[0].value})["all"]["tallies"]["counts"]
                rows = [row for by_share in counts.values() for row in by_share.values()]
                return sum(row[0] + row[4] for row in rows) == 40

            for _ in range(40):
                assert await revision(a)
            await eventually(is_kept)
            os.kill(await a.control_pid(), signal.SIGKILL)
            await eventually(lambda: a.log_text().count("this gateway holds its lease") == 2)
            known = await counted()

            async def more() -> bool:
                await revision(a)
                return await counted() != known

            await eventually(more, what="it counts again")
            assert await counted() > known >= 40
            await a.stop()


SERVED = """
    gateway: {{{store} listen: "127.0.0.1:{data}", admin: "127.0.0.1:{admin}"}}
    backends: {{main: {{serve: {{model: "models:Model"}}}}}}
    routes: {{all: {{match: /, split: {{main: 1}}}}}}
    """


@pytest.mark.parametrize(
    ("words", "store", "refusal"),
    [
        (
            ["up"],
            'store: etcd, etcd: {endpoints: ["http://127.0.0.1:9"]},',
            "backends/main/serve: `headgate up` starts no instances with `store: etcd`",
        ),
        (["gateway", "--on", "ray"], "", "set `gateway.store: etcd`"),
    ],
)
async def test_a_start_that_does_not_go_with_its_store_is_refused_in_one_line(
    tmp_path: Path, words: list[str], store: str, refusal: str
) -> None:
    file = tmp_path / "headgate.yaml"
    file.write_text(SERVED.format(store=store, data=free_port(), admin=free_port()))
    command = [sys.executable, "-m", "gateway", *words, str(file)]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "--state-dir", str(tmp_path / "s")],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert refusal in line


async def _driver(gateway: Gateway) -> str:
    """Who drives the rollout, by the status of that gateway."""
    status = (await gateway.admin("GET", "/admin/v1/status")).json()
    name: str = status["routes"]["all"]["rollout"]["driver"]
    return name


async def _rollout(gateway: Gateway, state: str) -> bool:
    reply = await gateway.admin("GET", "/admin/v1/routes/all/rollout")
    return bool(reply.status == 200 and reply.json()["state"] == state)


async def _starting_without_etcd(cluster: Cluster, gateway: Gateway) -> "asyncio.Task[None]":
    """Starts `gateway` again while etcd is away: revision 2 has weight 7, and its file now 9."""
    assert (await edit(gateway, 7)).json()["revision"] == 2
    cluster.kill()
    await gateway.stop()
    gateway.client = Client()
    gateway.document["routes"]["all"]["split"] = {"main": 9}
    return asyncio.create_task(gateway.start())


async def test_while_etcd_is_away_a_gateway_starts_from_its_copy() -> None:
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            starting = await _starting_without_etcd(cluster, gateway)
            await eventually(lambda: _decides(gateway, 2), 60)
            await gateway.logged("going on with the copy of revision 2")
            store = (await gateway.status())["store"]
            assert (store["state"], store["lease"], store["copy"]) == ("away", "lost", True)
            assert (await edit(gateway, 8)).status == 503
            assert not await healthy(gateway)
            assert not await ready(gateway), "others may know more than its copy"
            assert " a live edit: " not in gateway.log_text(), "it is applied to what is there then"
            assert "are kept: " not in gateway.log_text(), "its own change is nobody's live edit"
            cluster.start()
            await starting
            await gateway.logged("the file overrides a live edit: /routes/all/split/main")
            # What the file says now is applied as soon as somebody can store it.
            await eventually(lambda: _decides(gateway, 3), 60)
            assert (await edit(gateway, 8)).json()["revision"] == 4
            assert not (await gateway.status())["store"]["copy"]
            await gateway.stop()


async def test_a_state_directory_that_cannot_be_written_is_told_and_no_hindrance() -> None:
    """The table is in etcd: of a full disk no request notices anything."""
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            await gateway.stop()
            state = gateway.folder / "state"
            for name in ("lock", "file.new", "admin.new", "run.new", "etcd-copy.new"):
                (state / name).unlink(missing_ok=True)
                (state / name).mkdir()  # no file is written in its place, not even by root
            gateway.client = Client()
            await gateway.start()
            await eventually(lambda: healthy(gateway))
            assert (await applied(gateway, 7))["gateways"] == 1
            said = f"state directory {state} cannot be written (Is a directory)"
            assert gateway.log_text().count(said) == 1
            second = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "gateway", gateway.folder / "headgate.yaml"),
                *("--state-dir", state),
                stderr=PIPE, cwd=ROOT, env={**os.environ, "HEADGATE_LISTEN": "127.0.0.1:0",
                                            "HEADGATE_ADMIN": "127.0.0.1:0"},
            )  # fmt: skip
            _, err = await second.communicate()
            assert b"in use by another gateway" in err, "it is locked all the same"
            await gateway.stop()


async def test_a_state_directory_that_cannot_be_made_is_told_and_no_hindrance() -> None:
    """As below a root that is mounted read-only. Two gateways of one name stay two."""
    with etcd_cluster() as cluster:
        async with gateways(cluster, "ab") as (gateway, second):
            for each in (gateway, second):
                await each.stop()
                each.client = Client()
                shutil.rmtree(each.folder / "state")
                # No folder can be made in its place, not even by root.
                (each.folder / "state").symlink_to(each.folder / "not" / "there")
            await gateway.start()
            await eventually(lambda: healthy(gateway))
            assert (await applied(gateway, 7))["gateways"] == 1
            said = f"state directory {gateway.folder / 'state'} cannot be written (File exists)"
            await gateway.logged(said)  # by the process that began all: not before an edit
            assert gateway.log_text().count(said) == 1
            os.kill(await gateway.control_pid(), signal.SIGKILL)
            await gateway.logged("starting it again")
            await eventually(lambda: healthy(gateway))
            assert (await applied(gateway, 8))["gateways"] == 1
            second.document["gateway"]["node"] = "gw-a"
            starting = asyncio.create_task(second.start())
            await second.logged("another gateway is called 'gw-a' too")
            assert (await applied(gateway, 9))["gateways"] == 1
            await gateway.stop()
            await starting
            await second.stop()


async def test_a_file_that_is_late_is_applied_whichever_control_process_is_there_by_then() -> None:
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            starting = await _starting_without_etcd(cluster, gateway)
            await eventually(lambda: gateway.log_text().count("headgate is ready") == 2)
            os.kill(await gateway.control_pid(), signal.SIGKILL)
            await gateway.logged("starting it again")
            await eventually(lambda: gateway.log_text().count("going on with the copy") == 2)
            cluster.start()
            await starting
            await eventually(lambda: _decides(gateway, 3))
            weights = (await gateway.admin("GET", "/admin/v1/routes/all/weights")).json()
            assert weights["weights"] == {"main": 9}
            await gateway.stop()


async def _decides_by_more_than_its_copy(gateway: Gateway) -> None:
    """Has `gateway` serve revision 3, with one of revision 2 in its state directory."""
    copy = gateway.folder / "state" / "etcd-copy"
    assert (await applied(gateway, 7))["gateways"] == 1
    await eventually(lambda: b'"number":2' in copy.read_bytes(), what="a copy of it")
    copy.with_suffix(".new").mkdir()
    assert (await applied(gateway, 8))["gateways"] == 1


async def test_workers_do_not_go_back_to_a_copy_that_is_older_than_their_table() -> None:
    """The disk was full when it should have been written: what was edited since is not undone."""
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            await _decides_by_more_than_its_copy(gateway)
            cluster.kill()
            os.kill(await gateway.control_pid(), signal.SIGKILL)
            older = "of revision 2, is older than what workers decide by, 3"
            await gateway.logged(older)
            assert await revision(gateway) == 3
            # Whoever asks is told why nothing can be edited, by one control process that stays.
            await eventually(lambda: _is_there(gateway))
            assert older in (await gateway.status())["store"]["why"]
            assert (await edit(gateway, 9)).status == 503
            there = await gateway.control_pid()
            assert await revision(gateway) == 3
            cluster.start()
            await eventually(lambda: healthy(gateway))
            assert await revision(gateway) == 3
            assert (await applied(gateway, 9))["gateways"] == 1
            assert await gateway.control_pid() == there
            assert gateway.log_text().count("starting it again") == 1


async def test_nobody_takes_over_with_a_copy_that_is_older_than_what_is_decided_by() -> None:
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            await _decides_by_more_than_its_copy(gateway)
            cluster.kill()
            there = holder(gateway)
            replaced = asyncio.create_task(command(gateway, "upgrade"))
            while not replaced.done():
                assert await revision(gateway) == 3
            code, said = await replaced
            assert (code, holder(gateway)) == (1, there), said
            cluster.start()
            await eventually(lambda: healthy(gateway))
            assert (await applied(gateway, 9))["gateways"] == 1


async def test_without_etcd_and_a_copy_a_gateway_does_not_start_and_says_why() -> None:
    spec = {"endpoints": ["http://127.0.0.1:9"], "lease": "1s", "password": {"env": "NOT_SET"}}
    for spec, words in (
        (spec, "gateway.etcd.password: the variable NOT_SET is not set"),
        (
            {**spec, "password": "x"},
            "etcd cannot be reached (http://127.0.0.1:9: connection refused)",
        ),
    ):
        with pytest.raises(AssertionError) as failed:
            async with running_gateway(
                one_backend("http://127.0.0.1:9"), store="etcd", etcd=spec, up=False
            ):
                pass
        assert words in str(failed.value)
        assert "Traceback" not in str(failed.value)
        assert "Unclosed" not in str(failed.value)


async def test_an_edit_that_etcd_does_not_let_in_is_503_and_says_why() -> None:
    with etcd_cluster() as cluster:
        await protect(cluster.urls, "/headgate/test")
        spec = {**settings(cluster, "")["etcd"], "user": "headgate", "password": "pass"}
        async with gateways(cluster, "a", etcd=spec) as (gateway,):
            await eventually(lambda: healthy(gateway))
            await shut_out(cluster.urls, "/headgate/test")
            refused = (await edit(gateway, 7)).json()
            assert (refused["status"], refused["code"]) == (503, "store_unavailable")
            assert "permission denied" in refused["detail"]
            # It cannot know what others write either, and gives up its lease.
            await gateway.logged("does not hold its lease: etcd: permission denied")


async def _is_there(gateway: Gateway) -> bool:
    return bool((await gateway.admin("GET", "/readyz")).ok)


async def _decides(gateway: Gateway, number: int) -> bool:
    return await revision(gateway) == number


async def _shows(gateway: Gateway, behind: dict[str, int]) -> bool:
    shown = (await gateway.status())["gateways"]
    return {name: each["behind"] for name, each in shown.items()} == behind


@pytest.mark.parametrize("lost", ["serve", "refuse"])
async def test_a_gateway_that_is_cut_off_from_etcd_alone_is_acknowledged_without(lost: str) -> None:
    with etcd_cluster() as cluster:
        async with (
            link_to(int(cluster.urls[0].rpartition(":")[2])) as link,
            AsyncExitStack() as stack,
        ):
            (origin,) = await stack.enter_async_context(origins(1, after(0.001)))
            beyond = settings(cluster, "gw-b", store_lost=lost)
            beyond["etcd"]["endpoints"] = [f"http://127.0.0.1:{link.port}"]
            starting = [
                stack.enter_async_context(
                    running_gateway(one_backend(origin), check_end=False, **each)
                )
                for each in (settings(cluster, "gw-a"), beyond)
            ]
            a, b = await asyncio.gather(*starting)
            assert (await applied(a, 2))["gateways"] == 2
            before = await revision(b)
            link.cut()
            made = (await edit(a, 3)).json()
            assert made["applied"] == {"gateways": 1, "workers": 1, "lost": ["gw-b"]}
            assert not await healthy(b), "it knew before anybody stopped waiting for it"
            assert await revision(b) == (before if lost == "serve" else 0)
            assert (await edit(b, 4)).status == 503
            link.heal()
            await eventually(lambda: healthy(b))
            assert await revision(b) == made["revision"]
            assert (await applied(b, 4))["lost"] == []


async def test_while_a_gateway_is_replaced_edits_wait_for_it_or_for_its_lease() -> None:
    with etcd_cluster() as cluster:
        # It refuses when it is lost, so it answers by no older table than was acknowledged.
        async with gateways(cluster, "ab", lost="a") as (a, b):
            for each in (a, b):
                await eventually(lambda each=each: healthy(each))  # type: ignore[misc]
            replaced = asyncio.create_task(upgrade(a))
            while not replaced.done():
                await edits(b, [a], 1)
            await replaced
            await eventually(lambda: healthy(a))
            assert (await applied(b, 70)) == {"gateways": 2, "workers": 2, "lost": []}


async def test_a_gateway_that_is_replaced_answers_and_is_well_throughout() -> None:
    """Also where a lease would not last until its successor has one, and it refuses without."""
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a", lost="a") as (a,):
            await eventually(lambda: healthy(a))
            replaced = asyncio.create_task(upgrade(a))
            while not replaced.done():
                assert await revision(a) == 1
                assert await healthy(a)
            await replaced
            os.kill(await a.control_pid(), signal.SIGKILL)
            await a.logged("starting it again")
            assert (await edit(a, 7)).status == 200, "it waits for the lease that is taken first"
            assert await healthy(a)


async def test_an_instance_is_drained_once_no_gateway_has_a_request_there() -> None:
    go = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await exchange.or_gone(go.wait())
        exchange.reply(200, b"ok")

    with etcd_cluster() as cluster:
        async with (
            origins(1, held) as (origin,),
            gateways(cluster, "ab", origin=origin) as (a, b),
        ):
            asked = asyncio.create_task(b.client.get(f"{b.url}/x", timeout=60))
            await eventually(lambda: bool(origin.exchanges), what="the request is in flight")
            drain = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "drain", origin.address, "--wait"),
                stdout=PIPE, stderr=PIPE, cwd=a.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HEADGATE_URL": a.admin_url},
            )  # fmt: skip
            assert drain.stderr is not None
            assert await drain.stderr.readline() == b"some may be in flight at gw-b\n"
            assert drain.returncode is None, "it waits"
            go.set()
            assert (await asked).status == 200
            out, err = await drain.communicate()
            assert (drain.returncode, err) == (0, b"")
            assert out.startswith(f"{origin.address}: drained".encode())


async def _not(check: Any) -> bool:
    return not await check


async def test_three_gateways_have_one_table_whatever_dies() -> None:
    with etcd_cluster() as cluster:
        await prove(cluster, 5, 1)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_three_gateways_of_two_workers_have_one_table_for_long() -> None:
    with etcd_cluster(3) as cluster:
        await prove(cluster, 60, 2)


async def start_with(gateway: Gateway, **store: Any) -> None:
    """Starts `gateway` again with these settings alone."""
    gateway.client = Client()
    listeners = {name: gateway.document["gateway"][name] for name in ("listen", "admin")}
    gateway.document["gateway"] = {**listeners, **store}
    await gateway.start()


async def test_who_changes_the_store_takes_its_live_edits_along_or_does_not_start() -> None:
    """Keys above all: none that was added goes, which would open routes, and none comes back."""
    path, seen = "/admin/v1/keys", list[int]()

    async def exported(gateway: Gateway) -> None:
        live = (await gateway.admin("GET", "/admin/v1/table")).json()
        gateway.document |= {each: live.get(each, {}) for each in ("backends", "routes", "keys")}
        seen.append(live["revision"])

    async def decides_by(gateway: Gateway) -> int:
        return int((await gateway.admin("GET", "/admin/v1/table")).json()["revision"])

    with etcd_cluster() as cluster:
        async with (
            origins(1, after(0.001)) as (origin,),
            running_gateway(one_backend(origin), check_end=False) as gateway,
        ):
            for name in ("acme", "beta"):
                added = await gateway.admin("POST", path, {"name": name})
                assert added.status == 201
            await gateway.stop()
            with pytest.raises(AssertionError) as refused:
                await start_with(gateway, **settings(cluster, "gw-a"))
            assert "with `store: sqlite`, and the file lacks what was edited there (/keys" in str(
                refused.value
            )
            await start_with(gateway, store="sqlite")
            await exported(gateway)
            await gateway.stop()

            await start_with(gateway, **settings(cluster, "gw-a"))
            await eventually(lambda: healthy(gateway))
            assert await decides_by(gateway) == seen[-1] + 1, "no number is used again"
            assert (await gateway.admin("DELETE", f"{path}/acme", timeout=60)).status == 200
            await gateway.stop()
            with pytest.raises(AssertionError) as refused:
                await start_with(gateway, store="sqlite")
            assert "with `store: etcd`, and the file lacks what was edited there (/keys" in str(
                refused.value
            )
            await start_with(gateway, **settings(cluster, "gw-a"))
            await eventually(lambda: healthy(gateway))
            await exported(gateway)
            await gateway.stop()

            for _ in range(2):
                await start_with(gateway, store="sqlite")
                shown = (await gateway.admin("GET", path)).json()
                assert list(shown["keys"]) == ["beta"], "none that was revoked is valid again"
                assert await decides_by(gateway) == seen[-1] + 1
                await gateway.stop()


async def test_of_a_rollout_that_runs_the_store_is_not_changed() -> None:
    """Nobody would drive it any more: its canary would be watched by nobody."""
    plan = {"to": "new", "steps": [10, 100], "hold": "10m", "guards": {"errors": {}}}
    path = "/admin/v1/routes/all/rollout"
    with etcd_cluster() as cluster:
        async with (
            origins(1, after(0.001)) as (origin,),
            running_gateway(one_backend(origin), check_end=False) as gateway,
        ):
            gateway.document["backends"]["new"] = backend(origin)
            gateway.document["routes"]["all"]["split"] = {"main": 1, "new": 0}
            await gateway.stop()
            for store, other in (
                ({"store": "sqlite"}, settings(cluster, "gw-a")),
                (settings(cluster, "gw-a"), {"store": "sqlite"}),
            ):
                await start_with(gateway, **store)
                await eventually(lambda: ready(gateway))
                begun = await gateway.admin("PUT", path, plan, timeout=60)
                assert begun.status == 201, begun
                await gateway.stop()
                with pytest.raises(AssertionError) as refused:
                    await start_with(gateway, **other)
                assert f"a rollout ran on route all with `store: {store['store']}`" in str(
                    refused.value
                )
                await start_with(gateway, **store)
                await eventually(lambda: ready(gateway))
                ended = await gateway.admin("POST", f"{path}/abort", {}, timeout=60)
                assert ended.status == 200, ended
                await gateway.stop()
            await start_with(gateway, store="sqlite")
            assert (await gateway.admin("GET", path)).status == 404, "that was another one"
            await gateway.stop()


async def test_where_etcd_has_lost_the_table_live_edits_do_not_go_without_a_word() -> None:
    with etcd_cluster() as cluster:
        async with gateways(cluster, "a") as (gateway,):
            await eventually(lambda: healthy(gateway))
            assert (await edit(gateway, 7)).status == 200
            await gateway.stop()
            empty = settings(cluster, "gw-a")
            empty["etcd"] = {**empty["etcd"], "prefix": "/headgate/empty"}
            with pytest.raises(AssertionError) as refused:
                await start_with(gateway, **empty)
            assert "etcd has no table any more, and the file lacks what was edited there (/r" in (
                str(refused.value)
            )
            (gateway.folder / "state" / "etcd-copy").unlink()
            await start_with(gateway, **empty)
            assert await revision(gateway) == 1
            await gateway.stop()
