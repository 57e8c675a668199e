"""What a model's class is given by name, and what is said of what does not fit."""

from pathlib import Path

import pytest

from instance.model.loader import load
from instance.model.making import LoadError

MODELS = """
class Sized:
    def __init__(self, weights: str, scale: float = 1.0, names: list[int] = []):
        self.given = (weights, scale, names)

    def setup(self, device):
        pass

    def predict(self, x):
        return x

def square(inputs):
    return inputs
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    (tmp_path / "sized_models.py").write_text(MODELS)
    return str(tmp_path / "sized_models.py")


def test_a_class_gets_its_arguments_by_name_as_the_types_it_says(models: str) -> None:
    made = load(f"{models}:Sized", args={"weights": "v2.pt", "scale": 2, "names": [1]})
    assert made.given == ("v2.pt", 2.0, [1])
    assert isinstance(made.given[1], float)


def test_all_that_does_not_fit_is_said_at_once_and_where(models: str) -> None:
    with pytest.raises(LoadError) as refused:
        load(f"{models}:Sized", args={"weigths": "v2.pt", "scale": "much", "names": [1, "x"]})
    words = str(refused.value).split("; ")
    assert words[0] == (
        "args.names.1: input should be a valid integer, unable to parse string as an integer"
    )
    assert words[1] == (
        "args.scale: input should be a valid number, unable to parse string as a number"
    )
    assert words[2] == "args.weights: is missing"
    assert words[3].startswith("args.weigths: ")
    assert words[4] == "did you mean 'weights'?"


def test_what_is_no_class_takes_none(models: str) -> None:
    with pytest.raises(LoadError, match="is no class"):
        load(f"{models}:square", args={"weights": "v2.pt"})
