"""How does a test run a whole file, models included? As a user does: `headgate up FILE`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from gateway.controlplane.configuration.yaml_source import read
from tests.harness.gateway import ROOT, Gateway, eventually
from tests.harness.orphans import kill_all
from tests.harness.ports import free_port


class Up(Gateway):
    """`headgate up` on a file; otherwise what the harness knows of any gateway."""

    async def start(self) -> None:
        """Start everything and return once the command says that it is ready."""
        self.file.write_text(yaml.safe_dump(dict(self.document), sort_keys=False))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "up", str(self.file),
                "--state-dir", str(self.folder / "state"),
                cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        await eventually(self.answers, 90, "headgate up answers on both listeners")
        self.family()

    def instance_pid(self, backend: str) -> int:
        """The process that listens on the port of `backend`'s only instance."""
        port = int(self.document["backends"][backend]["instances"][0].rpartition(":")[2])
        for process in self.family():
            try:
                listening = {c.laddr.port for c in process.net_connections("tcp")
                             if c.status == psutil.CONN_LISTEN}  # fmt: skip
            except psutil.Error:
                continue
            if port in listening:
                return process.pid
        raise AssertionError(f"nothing listens on {port}")


def on_free_ports(file: str) -> dict[str, Any]:
    """The document in `file` (below the repository's root), on free ports, quick to stop."""
    # The gateway's own reader: to plain YAML 1.1 the key `on` would be true.
    document: dict[str, Any] = read((ROOT / file).read_text(encoding="utf-8")).value
    document["gateway"] |= {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
        "lame_duck": "100ms",  # nobody in front has to notice; the default is for test_r68
    }
    for backend in document["backends"].values():
        backend["instances"] = [f"http://127.0.0.1:{free_port()}" for _ in backend["instances"]]
    return document


@asynccontextmanager
async def running(folder: Path, document: dict[str, Any]) -> AsyncIterator[Up]:
    """Everything that `document` declares, ready; afterwards stopped with nothing left."""
    up = Up(folder, document, {})
    try:
        await up.start()
        await up.wait_up()
        yield up
        await up.stop()
    finally:
        await up.client.close()
        kill_all(up.family())
