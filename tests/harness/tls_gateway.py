"""A gateway whose clients come by TLS, and its certificate, which a test may replace."""

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.harness.gateway import Gateway, complete
from tests.harness.orphans import kill_all

Files = tuple[Path, Path]


class Tls(Gateway):
    """A gateway that is asked by https."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.data_port}"

    async def answers(self) -> bool:
        admin = await self.client.get(f"{self.admin_url}/readyz", timeout=1)
        return admin.status == 200


def put(files: Files, live: Files) -> None:
    """Puts certificate and key in the places that a gateway reads, each in one step."""
    for path, place in zip(files, live, strict=True):
        scrap = place.with_suffix(".next")
        shutil.copy(path, scrap)
        scrap.replace(place)


@asynccontextmanager
async def tls_gateway(
    folder: Path,
    document: Mapping[str, Any],
    files: Files,
    *,
    prefix: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[tuple[Tls, Files]]:
    """A gateway of `document` in `folder`, and where its certificate and key are: copies of
    `files`."""
    live = folder / "live.crt", folder / "live.key"
    put(files, live)
    tls = {"cert": str(live[0]), "key": str(live[1])}
    gateway = Tls(folder, complete(document, {"tls": tls, **settings}), {}, prefix)
    try:
        await gateway.start()
        await gateway.wait_up()
        yield gateway, live
        await gateway.stop()
    finally:
        await gateway.client.close()
        kill_all(gateway.family() if gateway.process else ())
