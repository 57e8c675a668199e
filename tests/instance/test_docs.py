"""The pages about instances name every option, code and metric there is."""

from pathlib import Path

import pytest

from instance.cli import manual
from instance.core.errors import KINDS
from instance.telemetry.metrics import Metrics

PAGE = (Path(__file__).parent.parent.parent / "docs" / "instance.md").read_text()


def test_the_options_are_what_the_settings_say() -> None:
    """Rendered by `python -m instance.cli`."""
    assert manual() in PAGE


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_every_error_code_is_described(kind) -> None:
    assert f"`{kind.code}`" in PAGE
    assert str(kind.status) in PAGE or kind.code == "refused"


def test_every_metric_is_described() -> None:
    metrics = Metrics()
    metrics.gpu_memory["cuda:0"] = (1, 2)
    for family in metrics.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}" in PAGE
