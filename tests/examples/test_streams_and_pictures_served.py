"""The streaming model and the picture model through `headgate up`, gateway and all."""

import json
from pathlib import Path

import pytest

from examples import images
from tests.harness.gateway import eventually
from tests.harness.up import Up, on_free_ports, running
from tests.harness.wire import wire

pytestmark = pytest.mark.timeout(120)
THREE = (Path(images.__file__).parent / "three.png").read_bytes()
BOUNDARY = "border-of-the-parts"


async def test_text_arrives_while_it_is_being_written(tmp_path: Path) -> None:
    async with running(tmp_path, on_free_ports("examples/characters/headgate.yaml")) as up:
        asked = {"prompt": "Alice ", "length": 5000, "seed": 1}
        body = json.dumps(asked).encode()
        head = "POST /write HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        async with wire(up.data_port) as client:
            await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await client.read_until(b"\r\n\r\n")
            await client.read_till(lambda data: not data.endswith(b"\r\n\r\n"))
        assert client.received.startswith(b"HTTP/1.1 200 ")
        # Who leaves after the first of it leaves before it is written.
        await eventually(lambda: left(up), what="it was not written to its end")
        asked["length"] = 300
        again = await up.client.json("POST", f"{up.url}/write", asked, timeout=60)
        assert len(again.body) == 300
        assert (await up.client.json("POST", f"{up.url}/write", {"prompt": ""})).status == 422


async def left(up: Up) -> bool:
    return (await up.metrics()).total("headgate_requests_total", reason="client_left") == 1


async def test_a_picture_is_read_from_a_form_and_from_the_body(tmp_path: Path) -> None:
    async with running(tmp_path, on_free_ports("examples/images/headgate.yaml")) as up:
        url = f"{up.url}/picture"
        raw = await up.client.post(url, THREE, headers=[("Content-Type", "image/png")])
        assert (raw.status, raw.json()["digit"]) == (200, 3)
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        form = await up.client.post(url, in_a_form(THREE), headers=[("Content-Type", kind)])
        assert (form.status, form.json()["digit"]) == (200, 3)
        other = await up.client.post(url, b"GIF89a", headers=[("Content-Type", "image/gif")])
        assert other.status in (415, 422)
        large = await up.client.post(url, b"x" * (9 << 20), headers=[("Content-Type", "image/png")])
        assert large.status == 413


def in_a_form(picture: bytes) -> bytes:
    """The body of a form with one file, `image`."""
    return (
        (
            f"--{BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="image"; filename="three.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        ).encode()
        + picture
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )
