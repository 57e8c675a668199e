"""R59-R65 for keys: a key is nowhere but with its client, and guessing one teaches nothing."""

import gc
import json
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gateway.core import access
from gateway.core.access import Keyring, digest_of, hash_of, minted, read_key, secret_of
from tests.harness.gateway import backend, running_gateway
from tests.harness.origins import echo, origins

PAGES = (
    "/", "/metrics", "/admin/v1/table", "/admin/v1/status", "/admin/v1/history",
    "/admin/v1/history/2", "/admin/v1/keys", "/admin/v1/keys/acme", "/openapi.json",
)  # fmt: skip


def files(folder: Path) -> bytes:
    read = []
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(FileNotFoundError):  # a journal is there as long as something is stored
                read.append(path.read_bytes())
    return b"".join(read)


async def test_r62_no_key_is_in_logs_metrics_history_files_or_the_list_of_processes() -> None:
    guess = "hg_" + "g" * 43
    async with origins(1, echo) as (origin,):
        document = {
            "backends": {"a": backend(origin)},
            "routes": {
                "r": {"match": "/", "split": {"a": 1}},
                "other": {"match": "/other", "split": {"a": 1}},
            },
        }
        async with running_gateway(document, access_log="-") as gateway:
            made = await gateway.admin("POST", "/admin/v1/keys", {"name": "acme", "routes": ["r"]})
            secret = made.json()["key"]
            told = []
            for path, key, status in (
                ("/", secret, 200), ("/", guess, 401), ("/other", secret, 403), ("/", secret, 200),
            ):  # fmt: skip
                for name, value in (("Authorization", f"Bearer {key}"), ("X-API-Key", key)):
                    reply = await gateway.client.get(gateway.url + path, headers=[(name, value)])
                    assert reply.status == status
                    told.append(reply.body + json.dumps(reply.headers).encode())
            rotated = await gateway.admin("POST", "/admin/v1/keys/acme/rotate", {})
            secrets = [secret, guess, rotated.json()["key"]]
            await gateway.admin("POST", "/admin/v1/keys/acme/retire", {})
            for page in PAGES:
                reply = await gateway.client.get(gateway.admin_url + page)
                assert reply.status == 200, page
                told.append(reply.body)
            for process in gateway.family():
                shown = " ".join([*process.cmdline(), json.dumps(process.environ())])
                told.append(shown.encode())
            told.append(files(gateway.folder))
        told.append(gateway.log_text().encode())
    assert b'"consumer":"acme"' in b"".join(told)  # the log was on
    for each in secrets:
        assert each.encode() not in b"".join(told)


def way(ring: Keyring, secret: bytes) -> list[str]:
    """What is called to find out whose key `secret` is, in order."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)
        elif event == "c_call":
            called.append(argument.__qualname__)

    gc.disable()  # a collection in between calls whoever wants to hear of it
    sys.setprofile(note)
    try:
        ring.find(digest_of(secret_of(b"Authorization: Bearer " + secret, b"")))
    finally:
        sys.setprofile(None)
        gc.enable()
    return called


@pytest.mark.skipif(access.__file__.endswith(".so"), reason="machine code calls nothing by name")
def test_a_wrong_key_goes_the_same_way_as_a_near_one_and_a_right_one() -> None:
    right = minted(b"r" * 32).encode()
    ring = Keyring({"acme": read_key("acme", {"hashes": [hash_of(right.decode())]})})
    assert ring.find(digest_of(right)) is not None
    known = way(ring, right)
    for other in (right[:-1] + b"x", b"hg_" + b"x" * 43, b"x", right + b"x"):
        assert ring.find(digest_of(other)) is None
        assert way(ring, other) == known
    assert secret_of(b"", b"x-api-key: a") == b"a"
