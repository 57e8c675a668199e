"""What msgspec reads in pydantic's place is what pydantic would have made of it."""

import dataclasses
import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, field_validator
from pydantic import ValidationError as Invalid
from pydantic.dataclasses import dataclass as pydantics_dataclass
from typing_extensions import TypedDict

from instance.core.errors import RequestRefused
from instance.model.codec import parser_for
from instance.model.fast_reading import Refused, reader_of
from instance.requests import Request


class Vector(BaseModel):
    a: list[float]


class Mixed(BaseModel):
    """Docstrings, titles and defaults change nothing."""

    a: int
    b: Annotated[float, Field(gt=-1, lt=100, title="B")] = 2.5
    c: dict[str, list[int]] = Field(default_factory=dict, description="C")
    d: bool | None = None
    e: str = "e"


class Closed(BaseModel):
    model_config = ConfigDict(title="closed")
    a: Annotated[int, Field(strict=True, ge=-3)]
    b: Annotated[list[float], Field(min_length=1, max_length=2)]


@dataclasses.dataclass
class Plain:
    a: list[list[float]]
    b: bool = False


@pydantics_dataclass
class Pydantics:
    a: float
    b: list[str] = dataclasses.field(default_factory=list)


class Typed(TypedDict):
    a: float
    b: Annotated[float, Field(strict=True, allow_inf_nan=False)]


FAST: list[Any] = [
    float, int, bool, str, list[float], list[list[float]], list[int], list[str], list[bool],
    dict[str, float], dict[str, list[int]], float | None, Annotated[list[int], Field(max_length=2)],
    Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)], Annotated[int, Field(strict=True)],
    Vector, Mixed, Closed, Plain, Pydantics, Typed, "the digits of the README",
]  # fmt: skip

NUMBERS = [
    "0", "-0", "0.0", "-0.0", "1", "1.0", "-1", "1e0", "1E+2", "0.1", "1e-400", "1e400", "-1e400",
    "01", "+1", "1.", ".5", "NaN", "Infinity", "-Infinity", "9007199254740993", "2.5e-324",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809",
    "1" * 19, "1" * 25, "1" * 400, "1" * 4400, "0." + "3" * 60, "1.7976931348623159e308", "100.0",
    "-3", "123456789012345678901234567890.5", "5e-1", "-0e1",
]  # fmt: skip
OTHERS = [
    "true", "false", "null", '""', '"a"', '"1.5"', '"1"', '"true"', '"NaN"', r'"\ud800"',
    r'"\u00e9"', r'"\ud83d\ude00"', r'"\n"', '"\t"', '"\x00"', '"é"', "{}", "[]", "[[]]", "tru",
    '"',
]  # fmt: skip
KEYS = ['"a"', '"b"', '"c"', '"d"', '"e"', '"x"', '"pixels"', r'"\u0061"', '""', '"é"', '"A"']
SPACE = st.sampled_from(["", " ", "\n\t\r "])
SCALARS = (
    st.sampled_from(NUMBERS + OTHERS)
    | st.floats().map(repr)
    | st.integers().map(str)
    | st.floats(0, 16).map(repr)
    | st.integers(0, 16).map(str)
    | st.text(max_size=5).map(json.dumps)
)


def _list(items: list[str], space: str) -> str:
    return f"[{space}{f'{space},'.join(items)}]{space}"


def _dict(items: list[tuple[str, str]], space: str) -> str:
    return f"{space}{{{f',{space}'.join(f'{key}{space}:{value}' for key, value in items)}}}"


TEXTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(_list, st.lists(inner, max_size=3), SPACE)
        | st.builds(_dict, st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=4), SPACE)
    ),
    max_leaves=8,
)
FLOATS = st.lists(st.floats(allow_nan=False), max_size=3)
FITTING = (  # as most clients send it
    st.builds(lambda a: json.dumps({"a": a}), FLOATS | st.lists(FLOATS, max_size=2) | st.integers())
    | st.builds(lambda a, b: json.dumps({"b": b, "a": a}), st.integers(-3, 3) | FLOATS, FLOATS)
    | st.builds(lambda a, b: json.dumps({"a": a, "b": b}), st.floats(), st.floats(-2, 2))
    | st.builds(
        lambda a, b, c, d, e: json.dumps({"a": a, "c": c, "b": b, "e": e, "d": d}),
        st.integers(), st.integers(-1, 99), st.dictionaries(st.text(max_size=2), st.just([1, 2])),
        st.booleans() | st.none(), st.text(max_size=3),
    )
    | st.builds(
        lambda row: json.dumps({"pixels": [row] * 8}),
        st.lists(st.floats(0, 16) | st.integers(0, 16), min_size=8, max_size=8),
    )
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON that a type may take, and such with a byte of it gone wrong."""
    body = draw(TEXTS | FITTING).encode()
    if body and draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(body)))
        body = (
            body[:at]
            + draw(st.sampled_from([b"", b"\xff", b",", b"0", b" ", b"]", b'"', b"\x00"]))
            + body[at + 1 :]
        )
    return body


def same(one: Any, other: Any) -> bool:
    """Whether nothing tells them apart, the order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == other.hex() and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, BaseModel):
        return one == other and all(
            same(a, b)
            for a, b in [
                (vars(one), vars(other)),
                (one.model_fields_set, other.model_fields_set),
                (one.model_extra, other.model_extra),
                (one.__pydantic_private__, other.__pydantic_private__),
            ]
        )
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)


def digits() -> Any:
    """What the README's example takes. Its module imports torch: not when tests are collected."""
    from examples.digits.models import Scan

    return Scan


@pytest.mark.parametrize("kind", FAST, ids=str)
def test_what_is_read_fast_is_what_pydantic_makes_of_it(kind: Any) -> None:
    kind = digits() if isinstance(kind, str) else kind
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    read = reader_of(adapter.core_schema)
    assert read is not None

    @settings(max_examples=60, deadline=None)
    @given(bodies())
    def holds(body: bytes) -> None:
        try:
            value = read(body)
        except Refused:
            return
        assert same(value, adapter.validate_json(body)), body

    holds()


class Strict(BaseModel, strict=True):
    a: float


class Open(BaseModel, extra="allow"):
    a: float


class Stripped(BaseModel, str_strip_whitespace=True):
    a: str


class Alias(BaseModel):
    a: float = Field(alias="b")


class Checked(BaseModel):
    a: float

    @field_validator("a")
    @classmethod
    def double(cls, a: float) -> float:
        return 2 * a


class Secret(BaseModel):
    a: float
    _b: int = PrivateAttr(default=1)


class Begun(BaseModel):
    a: float

    def model_post_init(self, context: Any) -> None:
        self.a += 1


class Made(BaseModel):
    a: float

    def __init__(self, **values: Any) -> None:
        super().__init__(**{**values, "a": 7})


class New(BaseModel):
    a: float

    def __new__(cls, *args: Any, **values: Any) -> "New":
        return super().__new__(cls)


class Nested(BaseModel):
    a: Vector


@dataclasses.dataclass
class Posted:
    a: float

    def __post_init__(self) -> None:
        self.a += 1


@dataclasses.dataclass(slots=True)
class Slots:
    a: float


class Partial(TypedDict, total=False):
    a: float


@pytest.mark.parametrize(
    "kind",
    [
        Any, dict[str, Any], dict[int, float], bytes, float | str, Literal["a"],
        tuple[float, float], set[int], Annotated[float, Field(multiple_of=2)],
        Annotated[str, Field(pattern="a")], Strict, Open, Stripped, Alias, Checked, Secret, Begun,
        Made, New, Nested, Posted, Slots, Partial,
    ],
    ids=str,
)  # fmt: skip
def test_a_type_that_may_mean_more_is_left_to_pydantic(kind: Any) -> None:
    assert reader_of(TypeAdapter(kind).core_schema) is None


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1}', 1.0), (b'{"a": "1.5"}', 1.5), (b'{"a": true}', 1.0),
        (b'{"a": 2, "x": 3}', 2.0),
    ],
)  # fmt: skip
def test_what_is_not_read_fast_is_coerced_by_pydantic(body: bytes, value: float) -> None:
    class One(BaseModel):
        a: float

    parse, _ = parser_for(One)
    assert same(parse(Request(body=body)).a, value)


def test_what_is_not_read_fast_is_refused_in_the_words_of_pydantic() -> None:
    parse, _ = parser_for(digits())
    rows = [[0] * 8] * 7 + [[0] * 7 + [17]]
    with pytest.raises(RequestRefused) as refused:
        parse(Request(body=json.dumps({"pixels": rows}).encode()))
    (fault,) = refused.value.problem.faults
    with pytest.raises(Invalid) as theirs:
        TypeAdapter(digits()).validate_python({"pixels": rows})
    assert (fault.pointer, fault.detail) == ("/pixels/7/7", theirs.value.errors()[0]["msg"])
