"""TLS on the admin listener: who finds it, whom it lets in, what becomes of new files."""

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from gateway.client import AdminClient, Refused, Unreachable, trust
from gateway.controlplane.admin.listener import AdminListener
from gateway.processes.certificates import Certificate
from gateway.processes.sockets import bind
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.gateway import ROOT, Gateway, complete, eventually, one_backend
from tests.harness.origins import one_origin
from tests.harness.orphans import kill_all

pytestmark = pytest.mark.asyncio(loop_scope="module")
Files = dict[str, Any]


class AdminTls(Gateway):
    """A gateway whose admin listener is asked by https."""

    tls: ssl.SSLContext

    @property
    def admin_url(self) -> str:
        return f"https://127.0.0.1:{self.admin_port}"

    @property
    def api(self) -> AdminClient:
        return AdminClient(self.admin_url, tls=self.tls, timeout_s=30.0)

    async def answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log_text()
        return await asyncio.to_thread(self._answers)

    def _answers(self) -> bool:
        try:
            workers = self.api.status()["workers"]
        except (Unreachable, Refused):
            return False
        return all(worker["connected"] for worker in workers)

    async def run(self, *words: str, **env: str) -> tuple[int, str]:
        """A command, as a user runs it in the folder above the state directory."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADGATE_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words, cwd=self.folder,
            env={**kept, "PYTHONPATH": str(ROOT), **env},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("admin-tls")
    ca = make_ca(folder)
    return {
        "folder": folder,
        "ca": ca,
        "one": make_certificate(folder, "one", ca, "127.0.0.1"),
        "elsewhere": make_certificate(folder, "elsewhere", ca, "gateway.test"),
        "mine": make_certificate(folder, "mine", ca),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(files: Files) -> AsyncIterator[AdminTls]:
    folder = files["folder"]
    live = {"cert": str(folder / "live.crt"), "key": str(folder / "live.key")}
    for name, path in zip(("cert", "key"), files["one"], strict=True):
        shutil.copy(path, live[name])
    async with one_origin() as origin:
        made = AdminTls(folder, complete(one_backend(origin), {"admin_tls": live}), {})
        made.tls = trust(str(files["ca"][0]))
        try:
            await made.start()
            yield made
            await made.stop()
        finally:
            kill_all(made.family() if made.process else ())


async def put(files: Files, name: str) -> None:
    """Replaces both files by those of `name`, as who renews a certificate does."""
    for path, end in zip(files[name], (".crt", ".key"), strict=True):
        shutil.copy(path, files["folder"] / "next")
        (files["folder"] / "next").replace(files["folder"] / f"live{end}")


async def test_commands_find_it_and_trust_what_it_shows(gateway: AdminTls, files: Files) -> None:
    state = ("--state-dir", str(gateway.folder / "state"))
    code, said = await gateway.run("routes", *state)
    assert (code, "main" in said) == (0, True), said
    url = ("--url", gateway.admin_url)
    code, said = await gateway.run("status", *url, "--cacert", str(files["ca"][0]))
    assert code == 0, said
    code, said = await gateway.run(
        "weights", "all", "main=3", *url, HEADGATE_CACERT=str(files["ca"][0])
    )
    assert code == 0, said
    await gateway.logged(f"admin     {gateway.admin_url}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "its certificate is not to be trusted"),
        (("--cacert", "/nowhere/ca.crt"), "/nowhere/ca.crt holds no certificates: no such file"),
        (("--client-cert", "/nowhere/c.crt"), "/nowhere/c.crt and its key cannot be used"),
    ],
)
async def test_who_cannot_be_trusted_is_not_asked(
    gateway: AdminTls, words: tuple[str, ...], says: str
) -> None:
    code, said = await gateway.run("routes", "--url", gateway.admin_url, *words)
    assert (code, said.count("\n")) == (1, 1), said
    assert says in said


async def test_a_browser_at_a_path_of_nobody_is_sent_to_the_dashboard_by_https(
    gateway: AdminTls,
) -> None:
    reply = await gateway.client.get(f"{gateway.url}/-/", headers=[("Accept", "text/html")])
    assert reply.status == 404
    assert f'href="{gateway.admin_url}/"'.encode() in reply.body, reply.body


async def test_http_gets_nothing_there(gateway: AdminTls) -> None:
    plain = AdminClient(gateway.admin_url.replace("https", "http"), timeout_s=5.0)
    with pytest.raises(Unreachable, match="speaks TLS answers at https"):
        await asyncio.to_thread(plain.status)


async def test_who_never_agrees_on_tls_makes_room_for_others(gateway: AdminTls) -> None:
    half_open = [await asyncio.open_connection("127.0.0.1", gateway.admin_port) for _ in range(400)]
    assert (await asyncio.to_thread(gateway.api.status))["revision"]
    for _, writer in half_open:
        writer.close()


async def test_another_certificate_is_shown_without_a_restart(
    gateway: AdminTls, files: Files
) -> None:
    pid = (await asyncio.to_thread(gateway.api.status))["control"]["pid"]
    await put(files, "elsewhere")

    async def is_new() -> bool:
        try:
            await asyncio.to_thread(gateway.api.status)
        except Unreachable as error:
            return "not to be trusted" in str(error)
        return False

    await eventually(is_new, what="the certificate for another host is shown")
    code, said = await gateway.run("routes", "--state-dir", str(gateway.folder / "state"))
    assert code == 0, said
    (files["folder"] / "live.crt").write_text("nothing")
    await eventually(lambda: "the certificate before is kept" in gateway.log_text())
    await put(files, "one")
    await eventually(gateway.answers, what="the first certificate is shown again")
    assert (await asyncio.to_thread(gateway.api.status))["control"]["pid"] == pid


async def test_a_control_process_that_comes_again_shows_the_last_certificate(
    gateway: AdminTls, files: Files
) -> None:
    pid = (await asyncio.to_thread(gateway.api.status))["control"]["pid"]
    (files["folder"] / "live.crt").write_text("nothing")
    os.kill(pid, 9)

    async def came_again() -> bool:
        try:
            status = await asyncio.to_thread(gateway.api.status)
        except (Unreachable, Refused):
            return False
        return bool(status["control"]["pid"] != pid)

    await eventually(came_again, what="another control process shows the last certificate")
    await put(files, "one")


async def test_with_a_client_ca_only_its_own_come_in(files: Files) -> None:
    said: list[str] = []
    paths = {"cert": files["one"][0], "key": files["one"][1], "client_ca": files["ca"][0]}
    certificate = Certificate({k: str(v) for k, v in paths.items()}, said.append)

    async def status(_: web.Request) -> web.Response:
        return web.json_response({"revision": 7})

    app = web.Application()
    app.router.add_get("/admin/v1/status", status)
    (bound,) = bind("127.0.0.1:0")
    bound.listen()
    listener = AdminListener(app, bound, certificate=certificate)
    await listener.start()
    url, ca = f"https://127.0.0.1:{bound.getsockname()[1]}", str(files["ca"][0])
    known = AdminClient(url, tls=trust(ca, *map(str, files["mine"])), timeout_s=30.0)
    assert await asyncio.to_thread(known.status) == {"revision": 7}
    with pytest.raises(Unreachable):
        await asyncio.to_thread(AdminClient(url, tls=trust(ca), timeout_s=30.0).status)
    await listener.close()
