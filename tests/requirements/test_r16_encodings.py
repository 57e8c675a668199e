"""R16: encoded bodies are somebody else's business: byte for byte, both ways, flat memory."""

import gzip
import hashlib
import os

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import fixed, one_origin

BODIES = {
    "gzip": gzip.compress(os.urandom(50_000)),
    "x-wrong; gzip": b"this is not gzip at all",
    "br": os.urandom(20_000),
    "zstd": b"\x28\xb5\x2f\xfd" + os.urandom(20_000),
    "gzip, gzip": gzip.compress(gzip.compress(b"0" * 20_000_000)),
}


async def test_r16_encoded_bodies_pass_untouched_and_a_bomb_stays_folded() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        await gateway.client.get(f"{gateway.url}/warm")
        before = await gateway.worker_rss()
        for coding, body in {**BODIES, "gzip ": gzip.compress(b"0" * 50_000_000)}.items():
            name = coding.strip().rpartition("; ")[2]
            origin.respond = fixed(200, body, [("Content-Encoding", name)])
            reply = await gateway.client.post(
                f"{gateway.url}/x", body, headers=[("Content-Encoding", name)]
            )
            assert reply.status == 200, coding
            assert reply.body == body, coding
            assert reply.header("content-encoding") == name
            seen = origin.exchanges[-1]
            assert seen.digest.hexdigest() == hashlib.sha256(body).hexdigest(), coding
            assert seen.header("content-encoding") == name
        assert await gateway.worker_rss() - before <= 8 << 20
