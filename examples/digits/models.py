"""What do the two versions of the digit model answer? The classes that an instance serves.

    headgate instance examples.digits.models:Linear --port 8001
    headgate instance examples.digits.models:Cnn --port 8002

Scans travel as plain lists until a batch is complete and become one tensor there: a tensor
for each request would cost more than the prediction. In the same way the probabilities of
a whole batch are rounded at once. Nothing here knows about HTTP.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import nn
from typing_extensions import TypedDict  # the one of `typing` lacks what pydantic needs in 3.11

from examples.digits.networks import WEIGHTS, CnnNetwork, LinearNetwork, load

Pixel = Annotated[float, Field(ge=0, le=16, strict=True, allow_inf_nan=False)]
Row = Annotated[list[Pixel], Field(min_length=8, max_length=8)]
Version = Literal["linear", "cnn"]

SEVEN: list[list[float]] = [  # one of the held-out scans
    [0, 0, 3, 11, 16, 15, 2, 0],
    [0, 4, 16, 10, 4, 16, 4, 0],
    [0, 7, 6, 0, 5, 16, 1, 0],
    [0, 0, 0, 0, 10, 12, 0, 0],
    [0, 0, 0, 9, 16, 16, 10, 0],
    [0, 0, 0, 6, 15, 6, 1, 0],
    [0, 0, 0, 13, 9, 0, 0, 0],
    [0, 0, 1, 15, 2, 0, 0, 0],
]


class Scan(BaseModel):
    """A handwritten digit, 8×8, each pixel the amount of ink from 0 to 16."""

    pixels: Annotated[list[Row], Field(min_length=8, max_length=8, examples=[SEVEN])]


class Reading(TypedDict):
    """The digit that was read, how probable each of the ten is, and which version read it."""

    digit: int
    probabilities: list[float]
    model: Version


class Reader:
    """What both versions share: the hooks around a network."""

    max_batch_size = 64
    batch_timeout = 0.0  # a lone scan never waits for company
    example: ClassVar[dict[str, Any] | None] = {"pixels": SEVEN}
    version: ClassVar[Version]
    network_class: ClassVar[type[nn.Module]]

    def setup(self, device: str) -> None:
        self.device = device
        self.network = load(self.network_class(), WEIGHTS / f"{self.version}.pt", device)

    def decode_request(self, request: Scan) -> list[list[float]]:
        return request.pixels

    @torch.inference_mode()
    def predict(self, scans: list[list[list[float]]]) -> list[list[float]]:
        inputs = torch.tensor(scans, dtype=torch.float32, device=self.device)
        probabilities = self.network(inputs).softmax(-1).cpu().double()
        rounded: list[list[float]] = probabilities.round(decimals=4).tolist()
        return rounded

    def encode_response(self, probabilities: list[float]) -> Reading:
        return Reading(
            digit=probabilities.index(max(probabilities)),
            probabilities=probabilities,
            model=self.version,
        )


class Linear(Reader):
    """The first version: small and quick."""

    version = "linear"
    network_class = LinearNetwork


class Cnn(Reader):
    """The second version: more work for each scan, and better answers."""

    version = "cnn"
    network_class = CnnNetwork
