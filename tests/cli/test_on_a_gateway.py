"""The command line against a real gateway, as a person uses it."""

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from gateway.client import AdminClient
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import get_each, open_loop
from tests.harness.origins import Exchange, origins
from tests.harness.ports import free_port

ROOT = Path(__file__).parents[2]
SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")
Ran = subprocess.CompletedProcess[str]


def variables(gateway: Gateway, **more: str) -> dict[str, str]:
    """The environment in which `headgate …` finds `gateway`."""
    url = {"HEADGATE_URL": gateway.admin_url}
    return {**os.environ, "PYTHONPATH": str(ROOT), **url, **more}


def at(gateway: Gateway, **environment: str) -> Callable[..., Awaitable[Ran]]:
    """Runs `headgate …` against `gateway` from its own folder."""

    async def run(*arguments: str) -> Ran:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "gateway", *arguments],
            capture_output=True, text=True, timeout=60, cwd=gateway.folder,
            env=variables(gateway, **environment),
        )  # fmt: skip

    return run


async def test_a_split_is_edited_looked_at_and_restored() -> None:
    async with origins(2) as (one, two):
        document = {
            "backends": {"one": backend(one), "two": backend(two)},
            "routes": {"all": {"match": "/", "split": {"one": 90, "two": 10}}},
        }
        async with running_gateway(document, workers=2) as gateway:
            headgate = at(gateway)
            ran = await headgate("weights", "all", "two=60", "-m", "größer")
            assert (ran.returncode, ran.stderr) == (0, "")
            assert ran.stdout.splitlines()[-1] == "revision 2, on 2 workers"
            assert ran.stdout.splitlines()[2].split()[:4] == ["two", "10", "→", "60"]
            replies = await open_loop(gateway.url, 100, 1, get_each)
            assert {r.header("x-headgate-revision") for r in replies} == {"2"}

            history = json.loads((await headgate("history", "--json")).stdout)
            assert history["revisions"][0]["why"] == "größer"
            assert "→ 60" in (await headgate("history", "2")).stdout
            ran = await headgate("restore", "1", "--if-revision", "2")
            assert "revision 3, on 2 workers" in ran.stdout
            ran = await headgate("weights", "all", "two=1", "--if-revision", "2")
            assert ran.returncode == 1
            assert ran.stderr == "headgate: the revision is no longer 2: it is 3 now\n"
            status = (await headgate("status")).stdout
            assert status.splitlines()[-1] == "revision 3 on 2 workers"
            assert (await headgate("top", "--count", "1")).returncode == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare() -> AsyncIterator[Gateway]:
    """A gateway without an instance, for those that leave it as they found it."""
    document = {"backends": {"b": {"instances": []}},
                "routes": {"all": {"match": "/", "split": {"b": 1}}}}  # fmt: skip
    async with running_gateway(document, up=False, env={}) as gateway:
        yield gateway


@SHARED_LOOP
async def test_refusals_of_a_real_gateway_are_one_line_each(bare: Gateway) -> None:
    headgate = at(bare)
    for words, said in (
        (("weights", "al"), "there is no route 'al' (did you mean all?)"),
        (("weights", "all", "bb=1"), "there is no backend 'bb' (did you mean b?)"),
        (("restore", "77"), "no revision 77"),
        (("history", "77"), "no revision 77"),
        (("drain", "127.0.0.1:1"), "there is no instance '127.0.0.1:1'"),
    ):
        ran = await headgate(*words)
        assert ran.returncode == 1, words
        assert said in ran.stderr, words
        assert len(ran.stderr.splitlines()) == 1, ran.stderr


@SHARED_LOOP
async def test_what_is_wrong_with_an_applied_file_begins_with_its_name_and_line_as_in_check(
    bare: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("routes:\n  a: {match: /a, split: {}, sticki: 1}\n")
    checked, ran = await at(bare)("check", str(file)), await at(bare)("apply", str(file))
    assert (checked.returncode, ran.returncode) == (1, 1)
    assert f"{file}:2: routes/a/sticki: unknown key; did you mean sticky?" in checked.stderr
    assert ran.stderr == "".join(f"headgate: {line}\n" for line in checked.stderr.splitlines())


@SHARED_LOOP
async def test_a_key_is_made_only_at_the_revision_that_was_named(bare: Gateway) -> None:
    ran = await at(bare)("key", "add", "acme", "--if-revision", "7")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "headgate: the revision is no longer 7: it is 1 now\n"


@SHARED_LOOP
async def test_a_dry_run_shows_the_key_that_would_be_and_no_secret(bare: Gateway) -> None:
    ran = await at(bare)("key", "add", "acme", "--route", "all", "--if-revision", "1", "--dry-run")
    assert (ran.returncode, ran.stderr) == (0, "")
    first, last = ran.stdout.splitlines()
    assert first.startswith("+ keys/acme: ")
    assert last == "a dry run: nothing was changed"
    assert "hg_" not in ran.stdout


@SHARED_LOOP
async def test_no_end_of_a_key_is_too_far_away_to_be_said_in_a_line(bare: Gateway) -> None:
    ran = await at(bare)("key", "add", "acme", "--expires", "999999w")
    assert (ran.returncode, ran.stdout) == (2, "")
    said = "headgate: --expires: 999999w from now is beyond the calendar; leave it out for never"
    assert ran.stderr.splitlines()[0] == said


@SHARED_LOOP
async def test_a_key_that_is_over_as_it_is_made_is_said_to_open_nothing(bare: Gateway) -> None:
    ran = await at(bare)("key", "add", "late", "--expires", "2020-01-01T00:00:00Z", "--dry-run")
    assert ran.returncode == 0, ran
    said = "headgate: 2020-01-01T00:00:00Z is over already: the key opens nothing"
    assert said in ran.stderr.splitlines()


@SHARED_LOOP
@pytest.mark.parametrize("span", ["0d", "-1d", "1.5h", "90", "2 months", "9999999d"])
async def test_a_span_that_is_none_is_told_how_they_are_written(bare: Gateway, span: str) -> None:
    ran = await at(bare)("key", "add", "acme", f"--expires={span}", "--dry-run")
    assert (ran.returncode, ran.stdout) == (2, "")
    said = f"headgate: --expires: {span} is no span; write it like 90d, 12h or 30m"
    assert ran.stderr.splitlines()[0] == said


@SHARED_LOOP
async def test_an_end_that_was_left_empty_makes_no_key_for_ever(bare: Gateway) -> None:
    ran = await at(bare)("key", "add", "acme", "--expires", "", "--dry-run")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("headgate: expires: '' is no time")


async def test_keys_are_listed_with_their_end_wherever_one_looks_and_that_they_open_nothing() -> (
    None
):
    document = {"backends": {"b": {"instances": []}},
                "routes": {"all": {"match": "/", "split": {"b": 1}}}}  # fmt: skip
    async with running_gateway(document, up=False) as gateway:
        headgate = at(gateway, TZ="UTC0")
        over, last = "2020-01-01T01:00:00+01:00", "9999-12-31T23:59:59Z"
        assert (await headgate("key", "add", "acme", "--expires", over)).returncode == 0
        api = AdminClient(gateway.admin_url, timeout_s=30.0)
        await asyncio.to_thread(api.create_key, "beta", {"routes": []})
        assert (await headgate("key", "add", "last", "--expires", last)).returncode == 0
        acme, beta = (await headgate("keys")).stdout.splitlines()[1:3]
        assert acme.startswith("acme  all     2020-01-01 00:00:00 (expired)  ")
        assert beta.split()[:3] == ["beta", "none", "never"]
        for zone in ("UTC0", "East-14", "West12"):
            ran = await at(gateway, TZ=zone)("keys")
            assert (ran.returncode, ran.stderr) == (0, "")
            ends = ran.stdout.splitlines()[3].split()
            assert ends[:2] == ["last", "all"]
            assert ends[2].startswith("9999-12-31")


async def test_going_back_says_which_route_it_opens_and_one_secret_is_not_retired() -> None:
    async with origins(1) as (one,):
        document = {
            "backends": {"one": backend(one)},
            "routes": {"all": {"match": "/", "split": {"one": 1}}},
        }
        async with running_gateway(document) as gateway:
            headgate = at(gateway)
            assert (await headgate("key", "add", "acme")).returncode == 0
            ran = await headgate("key", "retire", "acme")
            assert (ran.returncode, ran.stdout) == (0, "")
            assert ran.stderr == "acme has one secret: there is none to retire\n"
            opened = "headgate: by that, route 'all' is open to everybody\n"
            ran = await headgate("restore", "1", "--dry-run")
            assert (ran.returncode, ran.stderr) == (0, opened)
            ran = await headgate("restore", "1")
            assert (ran.returncode, ran.stderr) == (0, opened)
            assert ran.stdout.splitlines()[-1] == "revision 3, on 1 worker"


async def test_a_file_is_applied_three_ways_and_the_difference_comes_first() -> None:
    async with origins(2) as (one, two):
        document = {
            "backends": {"one": backend(one), "two": backend(two)},
            "routes": {"all": {"match": "/", "split": {"one": 90, "two": 10}}},
        }
        async with running_gateway(document) as gateway:
            headgate = at(gateway)
            await headgate("weights", "all", "two=20")
            gateway.document["routes"]["more"] = {"match": "/more", "split": {"one": 1}}
            gateway.file.write_text(yaml.safe_dump(gateway.document, sort_keys=False))
            ran = await headgate("apply", "headgate.yaml", "--dry-run")
            assert "+ routes/more: " in ran.stdout
            assert ran.stdout.splitlines()[-1] == "a dry run: nothing was changed"
            ran = await headgate("apply", "headgate.yaml")
            assert ran.stdout.splitlines()[-1] == "revision 3, on 1 worker"
            ran = await headgate("weights", "all", "--json")
            assert json.loads(ran.stdout)["weights"] == {"one": 90, "two": 20}, "the edit stayed"
            ran = await headgate("apply", "headgate.yaml")
            assert ran.stdout == "nothing would change\n"


async def test_drain_waits_for_what_is_in_flight() -> None:
    go = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await exchange.or_gone(go.wait())
        exchange.reply(200, b"ok")

    async with origins(2) as (slow, other):
        slow.respond = held
        document = {
            "backends": {"main": backend(slow, other)},
            "routes": {"all": {"match": "/", "split": {"main": 1}}},
        }
        async with running_gateway(document) as gateway:
            asked = [
                asyncio.create_task(gateway.client.get(f"{gateway.url}/{n}", timeout=60))
                for n in range(8)
            ]

            async def is_told() -> bool:
                instances = (await gateway.status())["backends"]["main"]["instances"]
                return bool(instances[slow.address]["in_flight"])

            await eventually(is_told, what="one is in flight there, and that is known")
            drain = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "drain", slow.address, "--wait",
                stdout=PIPE, stderr=PIPE, cwd=gateway.folder, env=variables(gateway),
            )  # fmt: skip
            assert drain.stderr is not None
            said = b""
            while b"in flight" not in said:
                more = await drain.stderr.read(4096)
                assert more, said
                said += more
            assert drain.returncode is None, "it waits"
            go.set()
            await drain.communicate()
            assert drain.returncode == 0
            assert all(reply.status == 200 for reply in await asyncio.gather(*asked))
            seen = len(slow.exchanges)
            await open_loop(gateway.url, 50, 1, get_each)
            assert len(slow.exchanges) == seen
            assert (await at(gateway)("resume", slow.address)).returncode == 0


@SHARED_LOOP
async def test_the_token_of_the_state_directory_is_found_and_printed(bare: Gateway) -> None:
    secret, state = "s" * 40, bare.folder / "state"
    ran = await at(bare)("token", "--state-dir", str(state))
    assert ran.returncode == 1
    assert "holds no token" in ran.stderr
    (state / "token").write_text(secret)
    (state / "token").chmod(0o600)
    found = at(bare, HEADGATE_STATE_DIR=str(state))
    assert (await found("token")).stdout == f"{secret}\n"
    assert (await found("status")).returncode == 0
    (state / "token").unlink()


async def test_what_is_exported_is_valid_and_changes_nothing() -> None:
    async with origins(2) as (one, two):
        document = {
            "gateway": {"expose": False},
            "backends": {"one": backend(one), "two": backend(two)},
            "routes": {"all": {"match": "/", "split": {"one": 90, "two": 10}}},
        }
        odd = {
            "match": {"path": "/x", "headers": {"a": "1e3", "b": "on", "c": "~", "d": "a: b # c"}},
            "split": {"one": 1}, "retries": {"on": ["503"]},
        }  # fmt: skip
        async with running_gateway(document) as gateway:
            (gateway.folder / ".headgate").symlink_to("state")  # as if no --state-dir were given
            later = gateway.document["gateway"]  # for the next start
            later["viewer_token"] = "v" * 40
            etcd = {"endpoints": ["http://127.0.0.1:2379"], "user": "headgate"}
            later |= {"store": "etcd", "etcd": {**etcd, "password": "p" * 20}}
            gateway.write_file()
            headgate = at(gateway, HEADGATE_URL="")
            assert (await headgate("weights", "all", "two=25%")).returncode == 0
            await headgate("disable", two.address)
            await asyncio.to_thread(AdminClient(gateway.admin_url).put_route, "1e3", odd)
            ran = await headgate("export")
            assert ran.returncode == 0
            assert ran.stderr == (
                "left out: gateway.viewer_token; give it as HEADGATE_VIEWER_TOKEN\n"
                "left out: gateway.etcd.password; give it as ETCD_PASSWORD\n"
            )
            exported = yaml.safe_load(ran.stdout)
            assert exported["routes"]["all"]["split"] == {"one": 75, "two": 25}
            assert exported["gateway"]["admin"] == f"127.0.0.1:{gateway.admin_port}"
            assert "v" * 40 not in ran.stdout
            assert exported["gateway"]["etcd"] == {**etcd, "password": {"env": "ETCD_PASSWORD"}}
            (gateway.folder / "git.yaml").write_text(ran.stdout)
            ran = await headgate("check", "git.yaml")
            lacks = (
                "git.yaml:14: warning: gateway/etcd/password: the variable ETCD_PASSWORD is not set"
            )
            assert (ran.returncode, ran.stderr) == (0, f"{lacks}\n")
            ran = await headgate("apply", "git.yaml")
            assert ran.returncode == 0
            said, *others = ran.stdout.splitlines()
            assert said == "nothing would change"
            assert all("settings are read at the next start" in line for line in others)
            again = await headgate("export", "git.yaml")
            assert again.stderr == ""
            assert yaml.safe_load(again.stdout) == exported
            assert json.loads((await headgate("export", "--json")).stdout) == exported
            gateway.file.write_text("")  # as `headgate export > headgate.yaml` leaves it
            ran = await headgate("export")
            assert (ran.returncode, ran.stdout) == (1, "")
            assert "write to another file" in ran.stderr


@SHARED_LOOP
async def test_commands_find_the_gateway_by_its_state_directory(bare: Gateway) -> None:
    named = at(bare, HEADGATE_URL="", HEADGATE_STATE_DIR=str(bare.folder / "state"))
    assert "all" in (await named("routes")).stdout
    (bare.folder / ".headgate").symlink_to("state")
    assert "all" in (await at(bare, HEADGATE_URL="")("routes")).stdout
    (bare.folder / ".headgate").unlink()


async def test_nobody_home_is_said_at_once() -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", "status", "--url", f"http://127.0.0.1:{free_port()}"],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("headgate: no gateway answers at ")
