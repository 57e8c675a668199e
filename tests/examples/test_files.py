"""The configuration files that are shipped: sound, local by default, and served by real models."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.controlplane.configuration.reading import Loaded, load
from instance.model import loader
from tests.harness.gateway import ROOT
from tests.harness.late import Late

torch = Late("torch")
scans, train = Late("examples.digits.scans"), Late("examples.digits.train")

FILES = sorted((ROOT / "examples").rglob("*.yaml"))
CONTAINER = ROOT / "docker/headgate.yaml"


@pytest.fixture(params=[*FILES, CONTAINER], ids=lambda file: str(file.relative_to(ROOT)))
def shipped(request: pytest.FixtureRequest) -> Loaded:
    return load(request.param, {})


def models(shipped: Loaded) -> list[str]:
    """What the file serves; the container's instances are declared in compose.yaml."""
    backends: dict[str, Any] = dict(shipped.document["backends"])
    return [backend["serve"]["model"] for backend in backends.values() if "serve" in backend]


def test_a_shipped_file_serves_models_that_exist(shipped: Loaded) -> None:
    named = models(shipped)
    assert bool(named) == (shipped.path != CONTAINER)
    for model in named:
        assert loader.load(model)


def test_an_example_listens_on_this_machine_only(shipped: Loaded) -> None:
    hosts = {shipped.settings.listen_address[0], shipped.settings.admin_address[0]}
    assert hosts == ({"0.0.0.0"} if shipped.path == CONTAINER else {"127.0.0.1"})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch in one thread, as the script has it: on few busy cores many are far slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_fifth_of_the_training_already_makes_weights_as_good_as_promised() -> None:
    training, held_out = scans.load()
    recipe = train.RECIPES["linear"]._replace(epochs=12)
    network = train.train(
        recipe, torch.from_numpy(training.images), torch.from_numpy(training.digits)
    )
    assert train.accuracy(network, held_out) >= recipe.promised


def test_no_scan_is_both_trained_on_and_held_out() -> None:
    training, held_out = scans.load()
    assert (len(training.digits), len(held_out.digits)) == (1198, 599)
    seen = {image.tobytes() for image in training.images}
    assert not any(image.tobytes() in seen for image in held_out.images)
