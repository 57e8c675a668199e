"""x² and √x, each file as it is shipped: two instances, own paths, one instance."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.harness.gateway import ROOT
from tests.harness.up import Up, on_free_ports, running

pytestmark = pytest.mark.timeout(120)
FOLDER = "examples/routes"


async def answer(up: Up, path: str, body: dict[str, Any]) -> tuple[float, str]:
    """The output of one request and the backend that computed it."""
    reply = await up.client.json("POST", up.url + path, body)
    assert reply.status == 200, reply.body
    return reply.json()["output"], reply.header("X-Headgate-Backend")


async def refused(up: Up, path: str, body: dict[str, Any]) -> list[str]:
    """The fields that a 422 names."""
    reply = await up.client.json("POST", up.url + path, body)
    assert reply.status == 422, reply.body
    return [error["pointer"] for error in reply.json()["errors"]]


async def test_two_models_are_two_instances_on_ports_of_their_own(tmp_path: Path) -> None:
    document = on_free_ports(f"{FOLDER}/two_instances.yaml")
    async with running(tmp_path, document) as up:
        assert await answer(up, "/square", {"input": 4}) == (16.0, "square")
        assert await answer(up, "/root", {"input": 16}) == (4.0, "root")
        assert up.instance_pid("square") != up.instance_pid("root")
        assert await refused(up, "/root", {"input": -1}) == ["/input"]
        assert await refused(up, "/square", {"input": "four"}) == ["/input"]


async def test_models_that_listen_to_paths_of_their_own_need_no_rewriting(tmp_path: Path) -> None:
    document = on_free_ports(f"{FOLDER}/custom_paths.yaml")
    async with running(tmp_path, document) as up:
        assert await answer(up, "/v1/square", {"input": 4}) == (16.0, "square")
        assert await answer(up, "/v2/square", {"input": 16}) == (4.0, "side")
        assert await refused(up, "/v2/square", {}) == ["/input"]
        assert (await up.client.json("POST", f"{up.url}/v3/square", {"input": 4})).status == 404


async def test_one_instance_chooses_by_the_model_type_in_the_body(tmp_path: Path) -> None:
    document = on_free_ports(f"{FOLDER}/one_instance.yaml")
    async with running(tmp_path, document) as up:
        assert await answer(up, "/predict", {"model_type": "square", "input": 3}) == (9.0, "either")
        root, _ = await answer(up, "/predict", {"model_type": "root", "input": 2})
        assert root == pytest.approx(math.sqrt(2))
        assert await refused(up, "/predict", {"model_type": "cube", "input": 2}) == ["/model_type"]
        assert await refused(up, "/predict", {"input": 2}) == ["/model_type"]
        assert await refused(up, "/predict", {"model_type": "root", "input": -2}) == ["/input"]


async def test_the_gateway_chooses_among_instances_by_the_body(tmp_path: Path) -> None:
    document = on_free_ports(f"{FOLDER}/chosen_by_gateway.yaml")
    async with running(tmp_path, document) as up:
        asked = {"model_type": "square", "input": 3}
        assert await answer(up, "/predict", asked) == (9.0, "square")
        asked = {"model_type": "root", "input": 9}
        assert await answer(up, "/predict", asked) == (3.0, "root")
        asked = {"model_type": "cube", "input": 3}
        assert (await up.client.json("POST", f"{up.url}/predict", asked)).status == 404


@pytest.mark.parametrize(
    ("file", "ports"),
    [
        ("two_instances", [8000, 8001]),
        ("custom_paths", [8000, 8001]),
        ("one_instance", [8000]),
        ("chosen_by_gateway", [8000, 8001]),
    ],
)
def test_the_files_name_the_ports_that_the_documentation_does(file: str, ports: list[int]) -> None:

    text = (ROOT / FOLDER / f"{file}.yaml").read_text(encoding="utf-8")
    assert all(f"instances: [http://127.0.0.1:{port}]" in text for port in ports)
    assert text.count("instances: [") == len(ports)
