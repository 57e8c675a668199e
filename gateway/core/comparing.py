"""Where do two answers differ, by the rules of a mirror?

A rule says what of a JSON answer is the same thing: `exact`, `set`, `ignore`, `close` or `top_k`,
each at a JSON pointer and for all below it. Where none is named everything is compared, numbers
with a tolerance that is learnt elsewhere (`noise`). What is no JSON is compared by its bytes,
a stream by those of its items. Nothing here reads a body or remembers an answer.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, cast

Json = Any
Kind = Literal["exact", "set", "ignore", "close", "top_k", "learnt"]
WORDS = ("exact", "set", "ignore")
MISSING: Json = ...
"""What stands where there is nothing."""
DEEPEST = 64  # below it values are compared whole
STATUS = "status"
"""Where answers differ in status: no JSON pointer, which begins with a slash or is empty."""
FORM = "form"
"""The same of answers of which one is JSON, or a stream, and the other is not."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When two values are the same. `rtol` and `atol` are of `close`, `k` is of `top_k`."""

    kind: Kind
    rtol: float = 0.0
    atol: float = 0.0
    k: int = 0


EXACT, LEARNT = Rule("exact"), Rule("learnt")


def rule_of(said: Json) -> Rule:
    """The rule as a document has it: a word, `{"close": …}` or `{"top_k": N}`; ValueError."""
    if isinstance(said, str) and said in WORDS:
        return Rule(cast(Kind, said))
    if isinstance(said, Mapping) and len(said) == 1:
        close, k = said.get("close"), said.get("top_k")
        if isinstance(close, Mapping) and close and close.keys() <= {"rtol", "atol"}:
            if all(_is_number(each) and 0 <= each < math.inf for each in close.values()):
                return Rule("close", float(close.get("rtol", 0)), float(close.get("atol", 0)))
        elif type(k) is int and k >= 1:
            return Rule("top_k", k=k)
    raise ValueError("must be exact, set, ignore, {close: {rtol, atol}} or {top_k: N}")


@dataclass(frozen=True, slots=True)
class Compare:
    """How answers of a mirror are compared: pointer → rule; whether the stable version is asked a
    second time; how many differing pairs are kept for a look."""

    fields: tuple[tuple[str, Rule], ...] = ()
    noise: bool = True
    samples: int = 50

    @property
    def is_learnt(self) -> bool:
        """Whether anything but what is named is compared: where nothing is, or only what is not
        to be."""
        return all(rule.kind == "ignore" for _, rule in self.fields)


def compare_of(said: Mapping[str, Json]) -> Compare:
    """The comparison that a document describes; ValueError. Noise is asked for where a tolerance
    is to be learnt, and where it is said."""
    fields = tuple((at, rule_of(rule)) for at, rule in (said.get("fields") or {}).items())
    found = Compare(fields, True, said.get("samples", 50))
    return Compare(fields, said.get("noise", found.is_learnt), found.samples)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: its status; `json`, `stream` or `bytes`; and its value, of a stream the list of
    its items."""

    status: int
    form: Literal["json", "stream", "bytes"]
    value: Json


@dataclass(frozen=True, slots=True)
class Difference:
    """At `pointer`, which belongs to `field`, are two values; `by` how much they differ, None where
    that is no number."""

    pointer: str
    field: str
    stable: Json
    mirror: Json
    by: float | None = None


Tolerance = Callable[[str, float, float], bool]
"""(field, value, other value) → whether two numbers without a rule are as good as the same."""
Numbers = Callable[[str, float, float], None]


def _never(field: str, value: float, other: float) -> bool:
    return value == other


class Comparer:
    """Compares answers by the rules of `compare`."""

    def __init__(self, compare: Compare) -> None:
        self.compare = compare
        self._rules = dict(compare.fields)
        if compare.is_learnt:
            self._roots = [("", self._rules.get("", LEARNT))]
        else:
            named = [at for at, rule in compare.fields if rule.kind != "ignore"]
            self._roots = [
                (at, self._rules[at])
                for at in named
                if not any(at != other and _is_below(at, other) for other in named)
            ]

    def differences(
        self, stable: Answer, mirror: Answer, alike: Tolerance = _never
    ) -> list[Difference]:
        """Where `mirror` differs from `stable`; an answer of an error has only its status."""
        if stable.status != mirror.status:
            return [Difference(STATUS, STATUS, stable.status, mirror.status)]
        if stable.status >= 400:
            return []
        if stable.form != mirror.form:
            return [Difference(FORM, FORM, stable.form, mirror.form)]
        found: list[Difference] = []
        if stable.form != "json":
            _Walk({}, _never, found).go("", "", EXACT, stable.value, mirror.value)
            return found
        walk = _Walk(self._rules, alike, found)
        for at, rule in self._roots:
            walk.go(at, at, rule, value_at(stable.value, at), value_at(mirror.value, at))
        return found

    def numbers(self, stable: Answer, again: Answer, note: Numbers) -> None:
        """Calls `note` with each pair of numbers that no rule names."""
        if stable.status == again.status < 400 and stable.form == again.form == "json":

            def noted(field: str, value: float, other: float) -> bool:
                note(field, value, other)
                return True

            self.differences(stable, again, noted)


class _Walk:
    """One walk through two values at once."""

    def __init__(
        self, rules: Mapping[str, Rule], alike: Tolerance, found: list[Difference]
    ) -> None:
        self._rules, self._alike, self._found = rules, alike, found

    def go(self, at: str, field: str, rule: Rule, a: Json, b: Json, depth: int = 0) -> None:
        """Notes where `a` and `b`, which stand at `at`, differ by `rule` or one named below."""
        if depth and at in self._rules:
            rule, field = self._rules[at], at
        kind = rule.kind
        if kind == "ignore":
            return
        if kind == "set" and isinstance(a, list) and isinstance(b, list):
            only_a, only_b = _without(a, b), _without(b, a)
            if only_a or only_b:
                self._found.append(Difference(at, field, only_a, only_b))
        elif kind == "top_k" and _is_many(a) and type(a) is type(b):
            if not _same_top(a, b, rule.k):
                self._found.append(Difference(at, field, _top(a, rule.k), _top(b, rule.k)))
        elif _is_number(a) and _is_number(b):
            self._numbers(at, field, rule, a, b)
        elif depth < DEEPEST and isinstance(a, dict) and isinstance(b, dict):
            for key in dict.fromkeys([*a, *b]):
                part = "/" + key.replace("~", "~0").replace("/", "~1")
                below = field if kind != "learnt" else field + part
                self.go(at + part, below, rule, a.get(key, MISSING), b.get(key, MISSING), depth + 1)
        elif depth < DEEPEST and isinstance(a, list) and isinstance(b, list):
            below = field if kind != "learnt" else field + "/*"
            for index, each in enumerate(zip_longest(a, b, fillvalue=MISSING)):
                self.go(f"{at}/{index}", below, rule, *each, depth + 1)
        elif not _same(a, b):
            self._found.append(Difference(at, field, a, b))

    def _numbers(self, at: str, field: str, rule: Rule, a: float, b: float) -> None:
        if rule.kind == "close":
            # As numpy.isclose and torch.testing.assert_close have it, the stable one as expected.
            is_same = a == b or abs(a - b) <= rule.atol + rule.rtol * abs(a)
        elif rule.kind == "learnt" and (isinstance(a, float) or isinstance(b, float)):
            is_same = self._alike(field, float(a), float(b))
        else:
            is_same = a == b
        if not is_same:
            self._found.append(Difference(at, field, a, b, abs(float(a) - float(b))))


def value_at(value: Json, at: str) -> Json:
    """What stands at the JSON pointer `at` (RFC 6901); MISSING where nothing does."""
    for part in at.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


def _is_below(at: str, other: str) -> bool:
    return at.startswith(other + "/")


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_many(value: Json) -> bool:
    return isinstance(value, list | dict)


def _same(a: Json, b: Json) -> bool:
    """Whether two values are equal, true being no 1."""
    if _is_many(a) or _is_many(b):
        return _text(a) == _text(b)
    return type(a) is type(b) and bool(a == b)


def _text(value: Json) -> str:
    """The same text for the same value."""
    try:
        return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, default=str)
    except RecursionError:
        return repr(id(value))  # nested as nobody's answer is: equal to nothing


def _plain(value: Json) -> Json:
    """`value` with 7.0 as 7: JSON has one kind of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def _without(some: list[Json], others: list[Json]) -> list[Json]:
    there = {_text(each) for each in others}
    return [each for each in some if _text(each) not in there]


def _scores(value: Json) -> dict[Json, float] | None:
    """The members of `value` with their scores; None where it is no collection of numbers."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    scores = dict(pairs)
    return scores if scores and all(_is_number(each) for each in scores.values()) else None


def _same_top(a: Json, b: Json, k: int) -> bool:
    """Whether the `k` best are the same. Of numbers these are the places of the largest, where
    equals may stand for each other; of anything else the first ones, without their scores."""
    one, other = _scores(a), _scores(b)
    if one is None or other is None:
        return set(map(_text, _top(a, k))) == set(map(_text, _top(b, k)))
    sure_a, may_a = _largest(one, k)
    sure_b, may_b = _largest(other, k)
    return sure_a <= may_b and sure_b <= may_a


def _largest(scores: Mapping[Json, float], k: int) -> tuple[set[Json], set[Json]]:
    """Who is among the `k` largest for sure, and who may be."""
    ordered = sorted(scores.values(), reverse=True)
    last = ordered[min(k, len(ordered)) - 1]
    may = {key for key, each in scores.items() if each >= last}
    return ({key for key in may if scores[key] > last} if len(may) > k else may), may


def _top(value: Json, k: int) -> list[Json]:
    scores = _scores(value)
    if scores is not None:
        return sorted(scores, key=lambda key: -scores[key])[:k]
    first = list(value)[:k]
    return [
        {key: of for key, of in each.items() if not isinstance(of, float)}
        if isinstance(each, dict)
        else each
        for each in first
    ]
