"""Tensors as bytes after the JSON, byte for byte as other servers' clients write them."""

import json
import struct
from typing import Any

from tests.instance.conftest import Instance, Serve

MODEL = """
    import numpy as np

    class Model:
        spec = "open-inference"
        def setup(self, device): ...
        def predict(self, tensors):
            for array in tensors.values():
                assert array.flags.writeable and array.flags.aligned
            return {name + "_back": array for name, array in tensors.items()}

    class Batched(Model):
        max_batch_size = 8
        def predict(self, batch):
            return [super(Batched, self).predict(one) for one in batch]
"""
PATH = "/v2/models/Model/infer"
LENGTH = "Inference-Header-Content-Length"


def tensor(name: str, datatype: str, shape: list[int], size: Any) -> dict[str, Any]:
    return {
        "name": name, "datatype": datatype, "shape": shape,
        "parameters": {"binary_data_size": size},
    }  # fmt: skip


def ask(
    instance: Instance, request: dict[str, Any], raw: bytes = b"", length: Any = None
) -> tuple[int, dict[str, Any], bytes]:
    """(status, the JSON of the answer, the bytes after it)."""
    head = json.dumps(request).encode()
    headers = {LENGTH: str(len(head)) if length is None else length}
    answer = instance.post(path=PATH, content=head + raw, headers=headers)
    if LENGTH not in answer.headers:
        return answer.status_code, answer.json(), b""
    assert answer.headers["content-type"] == "application/octet-stream"
    end = int(answer.headers[LENGTH])
    return answer.status_code, json.loads(answer.content[:end]), answer.content[end:]


def test_tensors_come_and_go_as_bytes(served: Serve) -> None:
    instance = served(MODEL)
    floats, words = struct.pack("<4f", 1, 2, 3, float("nan")), b"\x02\0\0\0ab\0\0\0\0"
    request = {
        "id": "1",
        "inputs": [
            tensor("f", "FP32", [2, 2], 16),
            {"name": "j", "datatype": "INT8", "shape": [1], "data": [-3]},
            tensor("w", "BYTES", [2], len(words)),
            tensor("none", "INT64", [0, 3], 0),
            tensor("yes", "BOOL", [1], 1),
        ],
        "parameters": {"binary_data_output": True},
    }
    status, answer, raw = ask(instance, request, floats + words + b"\x01")
    assert status == 200
    assert [(o["name"], o["datatype"], o["shape"]) for o in answer["outputs"]] == [
        ("f_back", "FP32", [2, 2]), ("j_back", "INT8", [1]), ("w_back", "BYTES", [2]),
        ("none_back", "INT64", [0, 3]), ("yes_back", "BOOL", [1]),
    ]  # fmt: skip
    assert raw == floats + struct.pack("<b", -3) + words + b"\x01"
    sizes = [output["parameters"]["binary_data_size"] for output in answer["outputs"]]
    assert sizes == [16, 1, 10, 0, 1]
    assert not any("data" in output for output in answer["outputs"])


def test_each_output_may_choose_its_form(served: Serve) -> None:
    instance = served(MODEL)
    request = {
        "inputs": [tensor("a", "FP16", [2], 4), tensor("b", "UINT16", [1], 2)],
        "outputs": [
            {"name": "b_back", "parameters": {"binary_data": True}},
            {"name": "a_back"},
        ],
    }
    raw_in = struct.pack("<2e", 0.5, -2) + struct.pack("<H", 513)
    status, answer, raw = ask(instance, request, raw_in)
    assert (status, raw) == (200, b"\x01\x02")
    assert answer["outputs"][1]["data"] == [0.5, -2]
    request["outputs"] = [{"name": "b_back", "parameters": {"binary_data": False}}]
    request["parameters"] = {"binary_data_output": True}
    status, answer, raw = ask(instance, request, raw_in)
    assert (status, raw, answer["outputs"][0]["data"]) == (200, b"", [513])
    assert "binary_tensor_data" in instance.get("/v2").json()["extensions"]


def test_large_tensors_at_odd_places_and_in_batches(serve: Serve) -> None:
    instance = serve(MODEL, "Batched")
    data = bytes(range(256)) * 4096
    for padding in range(4):  # the JSON's length decides where the tensor begins
        request = {
            "id": "x" * padding,
            "inputs": [tensor("n", "INT32", [512, 512], len(data))],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(request).encode()
        answer = instance.post(
            path=PATH.replace("Model", "Batched"),
            content=head + data,
            headers={LENGTH: str(len(head))},
        )
        assert answer.content[int(answer.headers[LENGTH]) :] == data


REFUSED: list[tuple[list[dict[str, Any]], bytes, str]] = [
    ([tensor("a", "FP32", [2], 7)], b"1234567", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "FP32", [2], 8)], b"1234567", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "FP32", [2], -8)], b"", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "FP32", [2], True)], b"1", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "FP32", [2], "8")], b"12345678", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "FP32", [2], 8)], b"123456789", "/inputs"),
    (
        [tensor("a", "INT8", [1], 1), tensor("b", "INT8", [2], 9**20)],
        b"123",
        "/inputs/1/parameters/binary_data_size",
    ),
    ([tensor("a", "FP32", [-1], 8)], b"12345678", "/inputs/0/shape"),
    ([tensor("a", "FP31", [2], 8)], b"12345678", "/inputs/0/datatype"),
    ([tensor("a", "FP32", [9**30], 8)], b"12345678", "/inputs/0/parameters/binary_data_size"),
    ([tensor("a", "BYTES", [1], 3)], b"\1\0\0", "/inputs/0/parameters/binary_data_size"),
    (
        [tensor("a", "BYTES", [1], 5)],
        b"\xff\xff\xff\xffa",
        "/inputs/0/parameters/binary_data_size",
    ),
    (
        [tensor("a", "BYTES", [3], 5)],
        b"\1\0\0\0a",
        "/inputs/0/parameters/binary_data_size",
    ),
    (
        [{**tensor("a", "INT8", [1], 1), "data": [1]}],
        b"1",
        "/inputs/0/parameters/binary_data_size",
    ),
    ([{"name": "a", "datatype": "INT8", "shape": [1]}], b"", "/inputs/0/data"),
]


def test_sizes_that_cannot_be_right_are_named(served: Serve) -> None:
    instance = served(MODEL)
    for inputs, raw, pointer in REFUSED:
        status, problem, _ = ask(instance, {"inputs": inputs}, raw)
        assert (status, problem["errors"][0]["pointer"]) == (422, pointer)


def test_a_length_that_cannot_be_right_is_named(served: Serve) -> None:
    instance = served(MODEL)
    request = {"inputs": [tensor("a", "INT8", [1], 1)]}
    for length in ("-1", "999999", "ten", "1" * 30, "\u00b2".encode()):
        status, problem, _ = ask(instance, request, b"1", length)
        assert status == 400
        assert LENGTH in problem["detail"]
    for length in ("0", "5"):  # the JSON is cut
        status, problem, _ = ask(instance, request, b"1", length)
        assert status == 400
    without = instance.post(request, path=PATH)
    assert without.status_code == 422
    assert LENGTH in without.json()["detail"]
    wish = {**request, "parameters": {"binary_data_output": "yes"}}
    status, problem, _ = ask(instance, wish, b"1")
    assert (status, problem["errors"][0]["pointer"]) == (422, "/parameters/binary_data_output")
