"""The digit models as classes, with the weights that are in the repository."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
from pydantic import ValidationError

from tests.examples.seven import SEVEN
from tests.harness.late import Late

torch, scans = Late("torch"), Late("examples.digits.scans")
models, networks = Late("examples.digits.models"), Late("examples.digits.networks")
PROMISED = {"Linear": 0.93, "Cnn": 0.975}


@pytest.fixture(scope="module", params=["Linear", "Cnn"], ids=["linear", "cnn"])
def model(request: pytest.FixtureRequest) -> Any:
    ready = getattr(models, request.param)()
    ready.setup("cpu")
    return ready


def answers(model: Any, bodies: list[dict[str, Any]]) -> list[Any]:
    """What an instance answers to `bodies` that arrived together."""
    decoded = [model.decode_request(models.Scan.model_validate(body)) for body in bodies]
    return [model.encode_response(output) for output in model.predict(decoded)]


def test_the_weights_reach_the_promised_accuracy_on_the_held_out_third(model: Any) -> None:
    _, held_out = scans.load()
    assert len(held_out.digits) == 599
    read = answers(model, [{"pixels": image} for image in held_out.images.tolist()])
    right = sum(
        answer["digit"] == digit
        for answer, digit in zip(read, held_out.digits.tolist(), strict=True)
    )
    assert right / len(read) >= PROMISED[type(model).__name__]


def test_an_answer_names_the_digit_its_probabilities_and_the_version(model: Any) -> None:
    [answer] = answers(model, [{"pixels": SEVEN}])
    assert answer.keys() == {"digit", "probabilities", "model"}
    assert answer["digit"] == 7
    assert answer["model"] == type(model).__name__.lower()
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-3)


def test_a_scan_alone_gets_the_answer_that_it_gets_in_a_batch(model: Any) -> None:
    _, held_out = scans.load()
    bodies = [{"pixels": image} for image in held_out.images[:32].tolist()]
    together = answers(model, bodies)
    for body, answer in zip(bodies, together, strict=True):
        [alone] = answers(model, [body])
        assert alone["digit"] == answer["digit"]
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=2e-4)


def test_a_model_served_without_batches_takes_one_scan_at_a_time(model: Any) -> None:
    assert model.encode_response(model.predict(SEVEN))["digit"] == 7


def test_the_warm_up_example_is_a_valid_request(model: Any) -> None:
    assert model.example == {"pixels": SEVEN}
    assert models.Scan.model_validate(model.example).model_dump() == model.example


def with_pixel(value: object) -> dict[str, Any]:
    pixels: list[list[Any]] = [list(row) for row in SEVEN]
    pixels[3][2] = value
    return {"pixels": pixels}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ("pixels",)),
        ({"pixels": None}, ("pixels",)),
        ({"pixels": "7"}, ("pixels",)),
        ({"pixels": SEVEN[:7]}, ("pixels",)),
        ({"pixels": [*SEVEN, SEVEN[0]]}, ("pixels",)),
        ({"pixels": [*SEVEN[:7], SEVEN[7][:7]]}, ("pixels", 7)),
        (with_pixel(17), ("pixels", 3, 2)),
        (with_pixel(-1), ("pixels", 3, 2)),
        (with_pixel(float("nan")), ("pixels", 3, 2)),
        (with_pixel("3"), ("pixels", 3, 2)),
        (with_pixel(True), ("pixels", 3, 2)),
        (with_pixel(None), ("pixels", 3, 2)),
    ],
)
def test_a_wrong_shape_range_or_type_is_refused_by_the_name_of_the_field(
    body: dict[str, Any], field: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        models.Scan.model_validate(body)
    assert [error["loc"] for error in refused.value.errors()] == [field]


def test_the_weights_together_are_less_than_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in networks.WEIGHTS.glob("*.pt")) < 1_000_000


def test_r66_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "it-ran",))

    torch.save({"layer.weight": Payload()}, tmp_path / "weights.pt")
    with pytest.raises(UnpicklingError):
        networks.load(networks.LinearNetwork(), tmp_path / "weights.pt", "cpu")
    assert not (tmp_path / "it-ran").exists()
