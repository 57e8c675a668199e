"""What do x² and √x look like as models? Classes, functions, and one class that is both.

Each YAML file beside this one serves them in another way. Numbers in, numbers out: there is
no model to load, so `setup` has nothing to do.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from instance import ModelAPI, endpoint

LARGEST = 1e150  # its square still is a number that JSON can carry
Input = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


class Number(BaseModel):
    """A number of either sign."""

    input: Input


class Area(BaseModel):
    """A number that has a square root."""

    input: Annotated[Input, Field(ge=0)]


class Result(BaseModel):
    output: float


class Square(ModelAPI):
    """x²"""

    example = {"input": 4.0}

    def decode_request(self, request: Number) -> float:
        return request.input

    def predict(self, x: float) -> float:
        return x * x

    def encode_response(self, output: float) -> Result:
        return Result(output=output)


class Root(ModelAPI):
    """√x"""

    example = {"input": 16.0}

    def decode_request(self, request: Area) -> float:
        return request.input

    def predict(self, x: float) -> float:
        return math.sqrt(x)

    def encode_response(self, output: float) -> Result:
        return Result(output=output)


@endpoint("/v1/square", max_batch_size=32, example={"input": 4.0})
def square(inputs: list[Number]) -> list[Result]:
    """x², as a function that takes whatever has arrived together."""
    return [Result(output=number.input**2) for number in inputs]


@endpoint("/v2/square", max_batch_size=32, example={"input": 16.0})
def side(inputs: list[Area]) -> list[Result]:
    """√x, the side of the square of which x is the area."""
    return [Result(output=math.sqrt(area.input)) for area in inputs]


class Choice(BaseModel):
    """A number, and the model that shall take it."""

    model_type: Literal["square", "root"]
    input: Input

    @field_validator("input")
    @classmethod
    def has_a_root(cls, value: float, others: ValidationInfo) -> float:
        if others.data.get("model_type") == "root" and value < 0:
            raise PydanticCustomError("no_root", "a negative number has no square root")
        return value


class Either(ModelAPI):
    """x² or √x, as the request says."""

    example = {"model_type": "square", "input": 4.0}

    def decode_request(self, request: Choice) -> Choice:
        return request

    def predict(self, choice: Choice) -> float:
        return choice.input**2 if choice.model_type == "square" else math.sqrt(choice.input)

    def encode_response(self, output: float) -> Result:
        return Result(output=output)
