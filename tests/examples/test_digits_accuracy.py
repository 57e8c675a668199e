"""The digits as served: the example's own file, real instances, every held-out scan."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.examples.seven import SEVEN
from tests.harness.gateway import ROOT, eventually
from tests.harness.late import Late
from tests.harness.up import Up, on_free_ports, running

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]
accuracy, scans = Late("examples.digits.accuracy"), Late("examples.digits.scans")
models = Late("examples.digits.models")
AT_ONCE = 16
VERSIONS = {"linear": "digits-linear", "cnn": "digits-cnn"}


@pytest.fixture(scope="module")
def held_out() -> Any:
    return scans.load()[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    document = on_free_ports("examples/digits/headgate.yaml")
    async with running(Path(tmp_path_factory.mktemp("digits")), document) as everything:
        yield everything


async def only(up: Up, version: str) -> None:
    """All requests go to `version` from now on."""
    weights = {backend: int(name == version) for name, backend in VERSIONS.items()}
    reply = await up.admin("PUT", "/admin/v1/routes/digits/weights", weights)
    assert reply.status == 200, reply.body


@pytest.mark.parametrize(("version", "promised"), [("linear", 0.93), ("cnn", 0.975)])
async def test_each_version_reads_the_held_out_scans_as_well_as_promised(
    up: Up, version: str, promised: float, held_out: Any
) -> None:
    await only(up, version)
    printed = subprocess.run(
        [sys.executable, "-m", "examples.digits.accuracy", f"{up.url}/digits"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert printed.returncode == 0, printed.stdout + printed.stderr
    name, answers, _, _, _, _, reached = printed.stdout.splitlines()[0].split()
    assert (name, int(answers)) == (version, len(held_out.digits))
    assert float(reached) >= promised


def read_offline(version: str, held_out: Any) -> list[int]:
    """The digits that a version reads in the held-out scans, without any server."""
    model = getattr(models, version)()
    model.setup("cpu")
    probabilities = model.predict(held_out.images.tolist())
    return [model.encode_response(each)["digit"] for each in probabilities]


async def test_linear_and_cnn_agree_as_often_as_an_offline_comparison_says_to_the_pair(
    up: Up, held_out: Any
) -> None:
    await only(up, "linear")
    compare = {"fields": {"/digit": "exact", "/probabilities": {"close": {"atol": 1}}}}
    route = {"mirror": {"backend": "digits-cnn", "compare": compare}}
    assert (await up.admin("PATCH", "/admin/v1/routes/digits", route)).status == 200

    async def compared(pairs: int) -> dict[str, Any] | None:
        found = (await up.admin("GET", "/admin/v1/routes/digits/mirror")).json()
        return found if found["pairs"] == pairs else None

    # A copy is taken where there is room at once, so there are never more on their way than fit.
    for begin in range(0, len(held_out.digits), AT_ONCE):
        end = min(begin + AT_ONCE, len(held_out.digits))
        some = scans.Scans(held_out.images[begin:end], held_out.digits[begin:end])
        tally = await asyncio.to_thread(accuracy.measure, f"{up.url}/digits", some, 2)
        assert not tally.errors
        found = await eventually(lambda: compared(end), what=f"a pair of each scan up to {end}")
    linear, cnn = read_offline("Linear", held_out), read_offline("Cnn", held_out)
    differ = sum(a != b for a, b in zip(linear, cnn, strict=True))
    assert found["verdicts"] == {
        "agree": len(linear) - differ, "differ": differ, "unanswered": 0, "dropped": 0,
    }  # fmt: skip
    assert found["fields"]["/digit"]["differ"] == differ > 0
    pairs = {(a, b) for a, b in zip(linear, cnn, strict=True) if a != b}
    told = [sample["differs"]["/digit"] for sample in found["samples"]]
    assert {(each["stable"], each["mirror"]) for each in told} <= pairs
    assert (await up.admin("PATCH", "/admin/v1/routes/digits", {"mirror": None})).status == 200


async def test_an_answer_has_the_shape_that_is_documented(up: Up) -> None:
    await only(up, "cnn")
    reply = await up.client.json("POST", f"{up.url}/digits", {"pixels": SEVEN})
    assert (reply.status, reply.header("Content-Type").split(";")[0]) == (200, "application/json")
    answer = reply.json()
    assert answer.keys() == {"digit", "probabilities", "model"}
    assert (answer["digit"], answer["model"]) == (7, "cnn")
    assert len(answer["probabilities"]) == 10
    assert reply.header("X-Headgate-Backend") == "digits-cnn"


def with_pixel(value: object) -> dict[str, Any]:
    pixels: list[list[Any]] = [list(row) for row in SEVEN]
    pixels[3][2] = value
    return {"pixels": pixels}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "/pixels"),
        ({"pixels": SEVEN[:7]}, "/pixels"),
        ({"pixels": [*SEVEN[:7], SEVEN[7][:7]]}, "/pixels/7"),
        (with_pixel(17), "/pixels/3/2"),
        (with_pixel(-1), "/pixels/3/2"),
        (with_pixel("3"), "/pixels/3/2"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_wrong_shape_range_or_type_is_422_and_names_the_field(
    up: Up, version: str, body: dict[str, Any], field: str
) -> None:
    await only(up, version)
    reply = await up.client.json("POST", f"{up.url}/digits", body)
    assert reply.status == 422
    assert reply.header("Content-Type") == "application/problem+json"
    assert [error["pointer"] for error in reply.json()["errors"]] == [field]


async def test_a_body_that_is_not_json_is_400(up: Up) -> None:
    reply = await up.client.post(
        f"{up.url}/digits", b'{"pixels": ', headers=[("Content-Type", "application/json")]
    )
    assert reply.status == 400
    assert reply.header("Content-Type") == "application/problem+json"


async def test_a_measurement_counts_requests_that_were_not_answered(up: Up, held_out: Any) -> None:
    few = scans.Scans(held_out.images[:3], held_out.digits[:3])
    tally = accuracy.measure(f"{up.url}/nowhere", few)
    assert dict(tally.errors) == {"404 no_route": 3}
    assert list(accuracy.report(tally)) == ["3 requests failed: 404 no_route"]
