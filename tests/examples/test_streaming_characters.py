"""The model that answers bit by bit, as a class, with the weights that are in the repository."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from tests.harness.late import Late

torch = Late("torch")
models, network = Late("examples.characters.models"), Late("examples.characters.network")


@pytest.fixture(scope="module")
def writer() -> Iterator[Any]:
    # In one thread: on few busy cores many are far slower.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ready = models.Writer()
    ready.setup("cpu")
    yield ready
    torch.set_num_threads(before)


def written(writer: Any, **asked: object) -> str:
    beginning = writer.decode_request(models.Beginning.model_validate(asked))
    return "".join(writer.encode_response(writer.predict(beginning)))


def test_as_many_characters_follow_as_were_asked_for(writer: Any) -> None:
    assert len(written(writer, prompt="Alice ", length=57)) == 57


def test_the_same_seed_writes_the_same_text(writer: Any) -> None:
    first, second, other = (
        written(writer, prompt="Alice ", length=80, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_most_of_what_is_written_are_words_of_the_book(writer: Any) -> None:
    known = set(network.BOOK.read_text(encoding="ascii").split())
    words = written(writer, prompt="Alice ", length=500, seed=1).split()[1:-1]
    assert sum(word in known for word in words) / len(words) > 0.75


def test_each_character_is_there_before_the_next_is_computed(writer: Any) -> None:
    endless = writer.predict(models.Beginning(prompt="Alice ", length=5000))
    assert len(list(itertools.islice(writer.encode_response(endless), 3))) == 3


def test_a_prompt_of_characters_that_the_book_lacks_is_written_on_all_the_same(
    writer: Any,
) -> None:
    assert len(written(writer, prompt="日本", length=5)) == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a" * 501}, "prompt"),
        ({"prompt": "a", "length": 0}, "length"),
        ({"prompt": "a", "temperature": 0}, "temperature"),
        ({"prompt": "a", "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_written_is_refused_by_the_name_of_the_field(
    body: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        models.Beginning.model_validate(body)
    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


def test_the_weights_are_less_than_a_megabyte() -> None:
    assert network.WEIGHTS.stat().st_size < 1_000_000
