"""Which path of a model does a route lead to that names none?"""

from typing import Any

import pytest

from gateway.core.served import filled, ways
from gateway.core.table import Table


def table(match: Any, split: dict[str, int], **route: Any) -> Table:
    document = {
        "backends": {
            "wine": {"serve": {"model": "wine.py:Wine"}},
            "new": {"serve": {"model": "wine.py:New"}},
            "other": {"serve": {"model": "other.py:Other"}},
            "far": {"instances": ["http://192.0.2.1:8000"]},
        },
        "routes": {"r": {"match": match, "split": split, **route}},
    }
    return Table.from_document(document, 3)


SERVED = {"wine": "/predict", "new": "/predict", "other": "/v1/chat/completions"}


@pytest.mark.parametrize(
    ("match", "split", "rewrite"),
    [
        ("/wine", {"wine": 1}, "/predict"),
        ({"exact": "/wine"}, {"wine": 1}, "/predict"),
        ("/wine", {"wine": 9, "new": 1}, "/predict"),
        ("/llm", {"other": 1}, "/v1/chat/completions"),
        ("/predict", {"wine": 1}, None),  # its own path
        ("/predict/", {"wine": 1}, None),
        ("/", {"wine": 1}, None),  # leads there as it is
        ("/v1", {"other": 1}, None),
        ("/predict/large", {"wine": 1}, None),
        ("/predictions", {"wine": 1}, "/predict"),
        ({"exact": "/v1"}, {"other": 1}, "/v1/chat/completions"),
        ("/wine", {"wine": 1, "other": 1}, None),  # which of the two?
        ("/wine", {"wine": 1, "far": 1}, None),  # what it serves nobody knows
        ("/far", {"far": 1}, None),
    ],
)
def test_the_models_path_is_the_default_rewrite_where_the_route_does_not_lead_there(
    match: Any, split: dict[str, int], rewrite: str | None
) -> None:
    assert filled(table(match, split), SERVED).routes["r"].rewrite == rewrite


def test_what_is_said_or_not_known_stays_as_it_is() -> None:
    said = table("/wine", {"wine": 1}, rewrite="/x")
    assert filled(said, SERVED) is said
    assert filled(table("/wine", {"wine": 1}), {}).routes["r"].rewrite is None
    one = table("/wine", {"wine": 1})
    assert filled(one, SERVED).document is one.document, "no default is written down"


def test_people_are_told_what_goes_where() -> None:
    found = filled(table("/wine", {"wine": 9, "new": 1}), SERVED).routes["r"]
    assert ways(found) == "wine 9, new 1, at /predict"
    assert ways(table("/far", {"far": 1}).routes["r"]) == "far 1"
