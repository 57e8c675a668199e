"""What the pages tell people to type does what they say, block by block."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness.blocks import NOT_RUN, Block, Terminal, blocks_of, of_language, typed
from tests.harness.gateway import (
    ROOT,
    Gateway,
    backend,
    complete,
    eventually,
    one_backend,
    running_gateway,
)
from tests.harness.late import late_or_skip
from tests.harness.load import Client
from tests.harness.origins import fixed, origins
from tests.harness.orphans import kill_all
from tests.harness.ports import free_port
from tests.harness.up import on_free_ports, running

PAGES = {
    str(path.relative_to(ROOT)): blocks_of(path)
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
TYPED = ("sh", "console")

# Pages with a test of their own: of the first run what stands in README, and of keys.
WITH_THE_DIGITS = ["README.md", "examples/digits/README.md"]
ELSEWHERE = ["docs/opening-to-others.md"]  # tests/test_opening.py
SERVING = [page for page, blocks in PAGES.items() if any(b.mark == "serves" for b in blocks)]
API = "docs/admin-api.md"
OTHERS = [
    page
    for page, blocks in PAGES.items()
    if of_language(blocks, *TYPED)
    and page not in (*WITH_THE_DIGITS, *ELSEWHERE, *SERVING, API)
]  # fmt: skip

# Why a block is not run, and how many are at most.
REASONS = {
    "Docker": 12,
    "installs": 8,
    "cluster": 8,
    "starts": 9,  # what the test that is named starts
    "stops the gateway": 4,
    "replaces the gateway": 2,
    "needs the service": 4,
    "one of these": 6,
    "kills by name": 1,
}


def test_each_block_is_run_or_says_why_not() -> None:
    marked = Counter(
        block.mark.removeprefix(NOT_RUN).partition(" (")[0]
        for blocks in PAGES.values()
        for block in blocks
        if block.mark.startswith(NOT_RUN)
    )
    assert marked.keys() <= REASONS.keys()
    assert not {why: count for why, count in marked.items() if count > REASONS[why]}
    run = sum(len(of_language(blocks, *TYPED)) for blocks in PAGES.values())
    assert run > 3 * marked.total(), f"{run} blocks are run, {marked.total()} are not"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", SERVING)
async def test_a_page_that_starts_a_server_leads_where_it_says(page: str, tmp_path: Path) -> None:
    data, admin = free_port(), free_port()
    environment = {
        "HEADGATE_LISTEN": f"127.0.0.1:{data}",
        "HEADGATE_ADMIN": f"127.0.0.1:{admin}",
        "HEADGATE_LAME_DUCK": "100ms",
    }
    terminal = Terminal(tmp_path, {8080: data, 8081: admin}, environment)
    client = Client()
    try:
        for block in PAGES[page]:
            if block.language not in TYPED:
                terminal.keep(block)
            elif block.mark == "serves":
                await terminal.start(block)

                async def is_ready() -> bool:
                    reply = await client.get(f"http://127.0.0.1:{admin}/readyz", timeout=1)
                    status = await client.get(f"http://127.0.0.1:{admin}/admin/v1/status")
                    backends = status.json()["backends"].values() if reply.status == 200 else ()
                    words = [i["health"] for b in backends for i in b["instances"].values()]
                    if not words or set(words) != {"up"}:
                        return False
                    fleet = status.json().get("fleet", {"revision": 1, "backends": {}})
                    states = {each["state"] for each in fleet["backends"].values()}
                    return fleet["revision"] > 0 and states <= {"ready", "asleep"}

                await eventually(is_ready, 60, f"{page} serves: {terminal.logs()}")
            elif block.mark == "keeps on":
                await terminal.start(block)
            elif not block.mark.startswith(NOT_RUN):
                await terminal.run(block)
    finally:
        await client.close()
        await terminal.close()


@asynccontextmanager
async def digits(tmp_path: Path, **more: Any) -> AsyncIterator[tuple[Gateway, Terminal]]:
    """The gateway of the manual, with two versions that answer nothing of interest."""
    async with origins(2) as (linear, cnn):
        for origin in (linear, cnn):
            origin.respond = fixed(200, b'{"digit":7}', [("Content-Type", "application/json")])
        document = {
            "backends": {"digits-linear": backend(linear), "digits-cnn": backend(cnn)},
            "routes": {
                "digits": {"match": "/digits", "split": {"digits-linear": 90, "digits-cnn": 10}}
            },
            **more,
        }
        log = str(tmp_path / "access.log")
        async with running_gateway(document, access_log=log) as gateway:
            ports = {
                8080: gateway.data_port,
                8081: gateway.admin_port,
                8001: linear.port,
                8002: cnn.port,
            }
            environment = {"HEADGATE_URL": gateway.admin_url}
            yield gateway, Terminal(tmp_path, ports, environment)


async def test_the_manual_does_what_it_says(tmp_path: Path) -> None:
    """One gateway for all pages; what a page has changed is taken back before the next."""
    async with digits(tmp_path) as (gateway, terminal):
        (tmp_path / "headgate.yaml").write_text(gateway.file.read_text())
        (tmp_path / ".headgate").symlink_to(gateway.folder / "state")
        for page in OTHERS:
            for block in of_language(PAGES[page], *TYPED):
                if block.mark == "keeps on":
                    await terminal.start(block)
                else:
                    await terminal.run(block)
            await begin_anew(gateway)
        await terminal.close()


async def begin_anew(gateway: Gateway) -> None:
    """The table of the beginning, and no rollout."""
    for method, path in (("POST", "/abort"), ("DELETE", "")):
        await gateway.admin(method, f"/admin/v1/routes/digits/rollout{path}")
    reply = await gateway.admin("POST", "/admin/v1/history/1/restore")
    assert reply.status == 200, reply


# What is answered otherwise than with success where no rollout has ended, no mirror compares,
# nobody starts instances, the key is there and the history is short.
REFUSED = {
    "/routes/digits/rollout": {"200", "201", "404", "409"},
    "/routes/digits/mirror": {"200", "404"},
    "-X DELETE http://127.0.0.1:8081/admin/v1/backends/digits-cnn ": {"409"},
    "/logs": {"409"},
    "/restart": {"409"},
    "/start": {"409"},
    "/stop": {"409"},
    "-X POST http://127.0.0.1:8081/admin/v1/keys ": {"409"},
    "/history/42": {"200", "404"},
}
CURL = """curl() {
  command curl --silent --max-time 1 --write-out '\\n%{http_code}' "$@" || test $? = 28
}
"""  # which ends a stream, too


async def test_each_call_of_the_admin_api_is_one(tmp_path: Path) -> None:
    """Each with the table of the beginning: none of them needs another, or spoils one."""
    keys = {
        name: {"hashes": [f"sha256:{str(digit) * 64}"]} for name, digit in (("acme", 1), ("b", 2))
    }
    async with digits(tmp_path, keys=keys) as (gateway, terminal):
        (tmp_path / "headgate.yaml").write_text(gateway.file.read_text())
        for block in of_language(PAGES[API], "sh"):
            said = await terminal.run(block, CURL)
            allowed = next((codes for part, codes in REFUSED.items() if part in block.text), None)
            assert said.strip()[-3:] in (allowed or {"200", "201"}), f"{block.text}\n{said}"
            await begin_anew(gateway)


async def test_a_state_that_was_backed_up_is_restored_as_the_manual_says(tmp_path: Path) -> None:
    """docs/how-to/backup.md: the copy made while it runs, put in place while it does not."""
    page = PAGES["docs/how-to/backup.md"]
    (copy,) = [block for block in page if "integrity_check" in block.text]
    (back,) = [block for block in page if block.mark.startswith(f"{NOT_RUN}stops the gateway")]
    assert back.text.endswith("\nheadgate gateway headgate.yaml\n")
    put = replace(back, text=back.text.replace("headgate gateway headgate.yaml\n", ""))
    async with origins(1) as (one,):
        gateway = Gateway(tmp_path, complete(one_backend(one), {}), {})
        (tmp_path / ".headgate").symlink_to(tmp_path / "state")
        terminal = Terminal(tmp_path, {}, {})
        try:
            await gateway.start()
            await gateway.set_weights("all", {"main": 7})
            await terminal.run(copy)
            await gateway.set_weights("all", {"main": 8})
            await gateway.stop()
            await terminal.run(put)
            await gateway.start()
            weights = await gateway.admin("GET", "/admin/v1/routes/all/weights")
            assert weights.json()["weights"] == {"main": 7}
            await gateway.stop()
        finally:
            kill_all(gateway.family())


@pytest.mark.timeout(240)
async def test_the_first_five_minutes_go_as_the_readme_says(tmp_path: Path) -> None:
    late_or_skip("torch")
    document = on_free_ports("examples/digits/headgate.yaml")
    (tmp_path / "here").mkdir()
    async with running(tmp_path, document) as up:
        ports = {8080: up.data_port, 8081: up.admin_port}
        terminal = Terminal(tmp_path / "here", ports, {"HEADGATE_URL": up.admin_url})
        typed_before: set[str] = set()
        for page in WITH_THE_DIGITS:
            for block in of_language(PAGES[page], *TYPED):
                if typed(block).strip() in typed_before:
                    continue
                typed_before.add(typed(block).strip())
                measure = re.compile(r"-m examples.digits.accuracy$", re.M)
                url = rf"-m examples.digits.accuracy {up.url}/digits"
                said = await terminal.run(replace(block, text=measure.sub(url, block.text)))
                if block.language == "console":
                    likeness(block, said)


def likeness(block: Block, said: str) -> None:
    """What is printed has the columns that the page shows, whatever figures stand below."""
    printed = [line.split() for line in said.splitlines()]
    for line in block.text.splitlines():
        if re.match(r"[A-Z]{3,} ", line) and not line.startswith("HTTP"):
            assert line.split() in printed, f"{line}\n{said}"
