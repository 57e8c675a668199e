"""The streaming model and the picture model through `headgate up`, gateway and all."""

import json
import time
from pathlib import Path

import pytest

from examples import images
from tests.harness.up import on_free_ports, running

pytestmark = pytest.mark.timeout(120)
THREE = (Path(images.__file__).parent / "three.png").read_bytes()
BOUNDARY = "border-of-the-parts"


async def test_text_arrives_while_it_is_being_written(tmp_path: Path) -> None:
    async with running(tmp_path, on_free_ports("examples/characters/headgate.yaml")) as up:
        asked = {"prompt": "Alice ", "length": 300, "seed": 1}
        arrivals: list[float] = []
        reply = await up.client.request(
            "POST",
            f"{up.url}/write",
            headers=[("Content-Type", "application/json")],
            body=json_bytes(asked),
            timeout=60,
            on_body=lambda _: arrivals.append(time.monotonic()),
        )
        assert (reply.status, reply.error) == (200, "")
        assert len(arrivals) > 10
        first_s, all_s = (each - reply.intended for each in (arrivals[0], arrivals[-1]))
        assert first_s < all_s / 4, (first_s, all_s)
        again = await up.client.json("POST", f"{up.url}/write", asked, timeout=60)
        assert len(again.body) == 300
        assert (await up.client.json("POST", f"{up.url}/write", {"prompt": ""})).status == 422


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


def json_bytes(value: object) -> bytes:

    return json.dumps(value).encode()


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
