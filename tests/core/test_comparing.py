"""When are two answers the same, how sure is an agreement, and what is noise?"""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.agreement import interval, log_evidence_of_disagreement
from gateway.core.comparing import (
    FORM,
    STATUS,
    Answer,
    Comparer,
    compare_of,
    rule_of,
    value_at,
)
from gateway.core.mirrored import MAX_WAITING, Counts, Mirrored, Pair
from gateway.core.noise import ENOUGH

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, "json", value)


def differ(fields: Any, one: Any, other: Any) -> dict[str, Any]:
    """Pointer → the two values there, of what differs by the rules of `fields`."""
    comparer = Comparer(compare_of({"fields": fields} if fields else {}))
    found = comparer.differences(answer(one), answer(other))
    return {each.pointer: (each.stable, each.mirror) for each in found}


@pytest.mark.parametrize(
    ("fields", "one", "other", "where"),
    [
        ({"/digit": "exact"}, {"digit": 7}, {"digit": 7.0}, []),
        ({"/digit": "exact"}, {"digit": 7}, {"digit": 1}, ["/digit"]),
        ({"/digit": "exact"}, {"digit": 1}, {"digit": True}, ["/digit"]),
        ({"/digit": "exact"}, {"digit": 7, "model": "a"}, {"digit": 7, "model": "b"}, []),
        ({"/digit": "exact"}, {"digit": 7}, {}, ["/digit"]),
        ({"/digit": "exact"}, {}, {}, []),
        ({"/time": "ignore"}, {"time": 1, "a": 1}, {"time": 2, "a": 1}, []),
        ({"/time": "ignore"}, {"time": 1, "a": 1}, {"time": 2, "a": 2}, ["/a"]),
        ({"/m": "exact", "/m/t": "ignore"}, {"m": {"t": 1}}, {"m": {"t": 2}}, []),
        ({"/m": "exact", "/m/t": "ignore"}, {"m": {"s": 1}}, {"m": {"s": 2}}, ["/m/s"]),
        ({"/tags": "set"}, {"tags": ["a", "b"]}, {"tags": ["b", "a", "a"]}, []),
        ({"/tags": "set"}, {"tags": ["a", "b"]}, {"tags": ["b", "c"]}, ["/tags"]),
        ({"/p": {"close": {"atol": 0.02}}}, {"p": [0.5, 0.5]}, {"p": [0.51, 0.49]}, []),
        ({"/p": {"close": {"atol": 0.02}}}, {"p": [0.5, 0.5]}, {"p": [0.6, 0.4]}, ["/p/0", "/p/1"]),
        ({"/p": {"close": {"rtol": 0.1}}}, {"p": 100}, {"p": 109}, []),
        ({"/p": {"close": {"rtol": 0.1}}}, {"p": [1, 2]}, {"p": [1]}, ["/p/1"]),
        ({"/p": {"close": {"atol": 1}}}, {"p": "1"}, {"p": 1}, ["/p"]),
        ({"/l": {"top_k": 2}}, {"l": [0.1, 0.5, 0.4]}, {"l": [0.2, 0.39, 0.41]}, []),
        ({"/l": {"top_k": 1}}, {"l": [0.1, 0.5, 0.4]}, {"l": [0.2, 0.39, 0.41]}, ["/l"]),
        ({"/l": {"top_k": 1}}, {"l": {"a": 0.9, "b": 0.1}}, {"l": {"a": 0.6, "b": 0.4}}, []),
        ({"/l": {"top_k": 2}}, {"l": ["a", "b", "c"]}, {"l": ["b", "a", "d"]}, []),
        (
            {"/l": {"top_k": 1}},
            {"l": [{"label": "cat", "score": 0.9}]},
            {"l": [{"label": "cat", "score": 0.7}]},
            [],
        ),
        ({"/l": {"top_k": 1}}, {"l": [1, 1, 0]}, {"l": [0, 1, 0]}, []),  # equals may stand in
        ({"/a~1b": "exact"}, {"a/b": 1}, {"a/b": 2}, ["/a~1b"]),
        (None, {"a": [1, {"b": "x"}]}, {"a": [1, {"b": "y"}]}, ["/a/1/b"]),
        (None, {"a": 1.0}, {"a": 1.0}, []),
        ({"": "exact"}, [1], [2], ["/0"]),
    ],
)  # fmt: skip
def test_what_a_rule_calls_the_same(fields: Any, one: Any, other: Any, where: list[str]) -> None:
    assert list(differ(fields, one, other)) == where
    assert set(differ(fields, other, one)) == set(where), "whichever is the stable one"


@given(JSON)
def test_an_answer_is_the_same_as_itself_by_every_rule(value: Any) -> None:
    for rule in ("exact", "set", "ignore", {"close": {"atol": 0}}, {"top_k": 2}):
        assert not differ({"": rule}, value, value)
    assert not differ(None, value, value)


@given(JSON, JSON)
def test_only_the_differing_values_are_told_and_each_once(one: Any, other: Any) -> None:
    found = Comparer(compare_of({"fields": {"": "exact"}})).differences(answer(one), answer(other))
    assert len({each.pointer for each in found}) == len(found)
    for each in found:
        assert value_at(one, each.pointer) == each.stable or each.stable is ...
        assert value_at(other, each.pointer) == each.mirror or each.mirror is ...


@given(NUMBERS, NUMBERS, st.integers(1, 5))
def test_the_top_is_as_symmetric_as_agreement_is(one: Any, other: Any, k: int) -> None:
    rule = {"": {"top_k": k}}
    assert bool(differ(rule, one, other)) == bool(differ(rule, other, one))


@pytest.mark.parametrize(
    "said", ["same", {"close": {}}, {"close": {"by": 1}}, {"close": {"atol": -1}}, {"top_k": 0},
             {"top_k": True}, {"top_k": 1, "close": {"atol": 1}}, 3, None]
)  # fmt: skip
def test_a_rule_that_is_none_is_refused(said: Any) -> None:
    with pytest.raises(ValueError, match="exact, set, ignore"):
        rule_of(said)


def test_status_and_form_come_before_what_is_said() -> None:
    comparer = Comparer(compare_of({}))
    text = Answer(200, "bytes", "x")
    assert [each.pointer for each in comparer.differences(answer(1), answer(1, 500))] == [STATUS]
    assert [each.pointer for each in comparer.differences(answer(1), text)] == [FORM]
    assert not comparer.differences(answer({"id": 1}, 422), answer({"id": 2}, 422))


def test_streams_are_the_bytes_of_their_items() -> None:
    comparer = Comparer(compare_of({"fields": {"/digit": "exact"}}))
    one, other = Answer(200, "stream", ["a", "b"]), Answer(200, "stream", ["a", "c", "d"])
    found = comparer.differences(one, other)
    assert [(each.pointer, each.stable, each.mirror) for each in found] == [
        ("/1", "b", "c"), ("/2", ..., "d"),
    ]  # fmt: skip


# -- noise


def noisy(value: float, chance: random.Random, deviation: float) -> Answer:
    return answer({"score": value + chance.gauss(0, deviation), "label": "cat"})


@pytest.mark.parametrize("deviation", [0.0, 1e-7, 1e-3, 0.1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_an_identical_model_with_noisy_floats_is_never_different(
    deviation: float, scale: float
) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        mirror = Mirrored(compare_of({}))
        for _ in range(400):
            value = chance.uniform(-scale, scale)
            one, other, again = (noisy(value, chance, deviation * scale) for _ in range(3))
            mirror.take(Pair(one, other, again))
        assert (mirror.counts.pairs, mirror.counts.differ) == (400, 0)
        assert mirror.shown()["noise_floor"]["agreement"] == 1.0


def test_a_number_that_is_off_by_more_than_the_noise_is_different() -> None:
    chance = random.Random(1)
    mirror = Mirrored(compare_of({}))
    for number in range(100):
        off = 1.0 if number % 10 == 0 else 0.0
        value = chance.random()
        one, again = noisy(value, chance, 1e-3), noisy(value, chance, 1e-3)
        mirror.take(Pair(one, noisy(value + off, chance, 1e-3), again))
    shown = mirror.shown()
    assert (shown["pairs"], shown["agreement"]) == (100, 0.9)
    assert shown["fields"]["/score"]["differ"] == 10
    assert 0.99 < shown["fields"]["/score"]["by"]["mean"] < 1.01
    assert "/label" not in shown["fields"]


def test_pairs_wait_until_a_tolerance_is_known_and_then_all_are_judged() -> None:
    mirror = Mirrored(compare_of({}))
    for number in range(1, ENOUGH + 1):
        assert mirror.counts.pairs == 0
        assert mirror.waiting == number - 1
        mirror.take(Pair(answer(1.0), answer(1.1), answer(1.0)))
    assert (mirror.counts.pairs, mirror.counts.differ, mirror.waiting) == (ENOUGH, ENOUGH, 0)


def test_of_pairs_for_which_no_tolerance_comes_some_wait_and_the_rest_are_skipped() -> None:
    mirror = Mirrored(compare_of({}))
    for _ in range(MAX_WAITING + 5):
        mirror.take(Pair(answer(1.0), answer(1.1)))
    assert (mirror.counts.pairs, mirror.waiting, mirror.skipped) == (0, MAX_WAITING, 5)


def test_what_differs_from_itself_is_the_noise_floor() -> None:
    mirror = Mirrored(compare_of({"fields": {"/label": "exact"}, "noise": True}))
    for number in range(50):
        again = answer({"label": "dog" if number % 5 == 0 else "cat"})
        mirror.take(Pair(answer({"label": "cat"}), answer({"label": "cat"}), again))
    shown = mirror.shown()
    assert shown["agreement"] == 1.0
    assert shown["noise_floor"]["agreement"] == 0.8
    assert shown["noise_floor"]["fields"] == {"/label": {"differ": 10, "agreement": 0.8}}


# -- samples


def test_the_last_differing_pairs_are_kept_with_the_differing_values_only() -> None:
    mirror = Mirrored(compare_of({"fields": {"/digit": "exact", "/name": "exact"}}))
    for number in range(60):
        one, other = {"digit": number, "name": "secret"}, {"digit": -1, "name": "secret"}
        mirror.take(Pair(answer(one), answer(other), request=f"r{number}"))
    samples = mirror.shown()["samples"]
    assert len(samples) == 50
    assert samples[0]["request_id"] == "r59"
    assert samples[0]["differs"] == {"/digit": {"stable": 59, "mirror": -1}}
    assert "secret" not in str(mirror.as_json())


def test_no_sample_is_kept_where_none_is_wanted() -> None:
    mirror = Mirrored(compare_of({"fields": {"/digit": "exact"}, "samples": 0}))
    mirror.take(Pair(answer({"digit": 41414141}), answer({"digit": 42424242})))
    assert mirror.counts.differ == 1
    assert "41414141" not in str(mirror.as_json()["samples"])
    assert mirror.shown()["samples"] == []


def test_what_was_known_is_known_again() -> None:
    mirror = Mirrored(compare_of({}))
    chance = random.Random(3)
    for _ in range(60):
        answers = [noisy(1.0, chance, 0.01) for _ in range(2)]
        mirror.take(Pair(answers[0], answer({"score": 5.0}), answers[1]))
    again = Mirrored.from_json(mirror.compare, mirror.as_json())
    assert again.as_json() == mirror.as_json()


def test_counts_are_added_and_what_came_since_is_their_difference() -> None:
    before, more = Counts(10, 3, 8, 2, 1), Counts(5, 1, 4, 1, 0)
    both = before.plus(more)
    assert both == Counts(15, 4, 12, 3, 1)
    assert both.minus(before) == more
    assert before.minus(before) == Counts()
    assert before == Counts(10, 3, 8, 2, 1), "neither is changed"


def test_a_sticky_key_is_evidence_once() -> None:
    mirror = Mirrored(compare_of({"fields": {"/digit": "exact"}}))
    for _ in range(10):
        mirror.take(Pair(answer({"digit": 1}), answer({"digit": 2}), key=77))
    assert (mirror.counts.differ, mirror.judged.differ, mirror.judged.pairs) == (10, 1, 1)


# -- how sure it is


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_interval_holds_what_was_seen_and_narrows(agree: int, differ: int) -> None:
    low, high = interval(agree, agree + differ)
    assert 0.0 <= low <= high <= 1.0
    if agree + differ:
        assert low <= agree / (agree + differ) <= high
        wide, narrow = high - low, interval(4 * agree, 4 * (agree + differ))
        assert narrow[1] - narrow[0] <= wide + 1e-9


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.98, 0.999])
def test_the_interval_holds_the_truth_at_every_look(rate: float) -> None:
    missed = 0
    for seed in range(100):
        chance, agree = random.Random(seed), 0
        for pairs in range(1, 400):
            agree += chance.random() < rate
            low, high = interval(agree, pairs) if pairs % 20 == 0 or pairs < 10 else (0, 1)
            if not low <= rate <= high:
                missed += 1
                break
    assert missed <= 5


def verdict(differ: int, pairs: int, twice: tuple[int, int] | None = None) -> bool:
    return log_evidence_of_disagreement(differ, pairs, 0.98, twice) >= 4.60517  # ln 100


def test_a_999_and_a_900_model_are_told_apart_within_200_pairs() -> None:
    found, false, apart, runs = 0, 0, 0, 200
    for seed in range(runs):
        chance = random.Random(seed)
        bad = good = 0
        is_bad = is_good = False
        for pairs in range(1, 201):
            bad += chance.random() < 0.1
            good += chance.random() < 0.001
            is_bad = is_bad or verdict(bad, pairs, (bad, 0))
            is_good = is_good or verdict(good, pairs, (good, 0))
        found, false = found + is_bad, false + is_good
        apart += interval(200 - bad, 200)[1] < interval(200 - good, 200)[0]
    assert false == 0
    assert found >= 0.95 * runs
    assert apart >= 0.8 * runs, "the intervals as well, which allow for every look"


def test_what_the_stable_version_does_to_itself_is_no_evidence() -> None:
    alarms, runs = 0, 200
    for seed in range(runs):
        chance, differ, noise = random.Random(seed), 0, 0
        for pairs in range(1, 300):
            differ += chance.random() < 0.2
            noise += chance.random() < 0.2
            if verdict(differ, pairs, (differ, noise)):
                alarms += 1
                break
        assert verdict(differ, pairs), "without asking the stable version again it would be"
    assert alarms <= 0.01 * runs
