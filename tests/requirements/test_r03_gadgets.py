"""R3: no obfuscated Transfer-Encoding desynchronises the gateway from an instance."""

import asyncio
from typing import Any

import pytest

from tests.harness import corpora
from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.load import Client
from tests.harness.origins import one_origin
from tests.harness.wire import wire

HEAD = b"POST /gadget-%s HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n%s\r\n\r\n%s"
ATTACKS = {"CL.TE": (6, b"0\r\n\r\nX"), "TE.CL": (3, b"1\r\nZ\r\n0\r\n\r\n")}


async def attack(gateway: Gateway, row: dict[str, Any], kind: str, canaries: Client) -> str:
    """Send one gadget, then a canary on another connection; what went wrong, or ""."""
    length, body = ATTACKS[kind]
    name = f"{row['id'].replace('/', '-')}-{kind}"
    async with wire(gateway.data_port) as attacker:
        head = (name.encode(), length, corpora.raw(row, "gadget"), body)
        await attacker.send(HEAD % head)
        await attacker.read_until_quiet(0.1, after_data_s=0.02)
        canary = await canaries.get(f"{gateway.url}/canary-{name}")
    if canary.status != 200:
        return f"the canary got {canary.status} {canary.error}"
    seen = canary.json()
    if (seen["method"], seen["target"]) != ("GET", f"/canary-{name}"):
        return f"the origin saw {seen}"
    return ""


async def _gadgets(small: bool) -> None:
    rows = [row for row in corpora.rows("te_cl_gadgets") if not small or row["set"] == "small"]
    work = iter([(row, kind) for row in rows for kind in ATTACKS])
    faults: list[tuple[str, str]] = []
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:

        async def lane() -> None:
            client = Client()
            for row, kind in work:
                if why := await attack(gateway, row, kind, client):
                    faults.append((row["id"], f"{kind}: {why}"))
            await client.close()

        await asyncio.gather(*(lane() for _ in range(4)))
        assert origin.malformed == []
        seen = [(e.method, e.target, e.headers) for e in origin.exchanges]
        assert [one for one in seen if not one[1].startswith((b"/canary-", b"/gadget-"))] == []
    assert not (unexplained := corpora.unexplained("r03", faults)), "\n".join(unexplained)


async def test_r03_no_gadget_poisons_the_request_of_another_client() -> None:
    await _gadgets(small=True)


@pytest.mark.soak
async def test_r03_no_gadget_of_the_full_set_poisons_another_client() -> None:
    await _gadgets(small=False)
