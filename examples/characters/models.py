"""How does a model answer bit by bit? Text in the manner of one book, as it is made.

    headgate up examples/characters/headgate.yaml
    curl --no-buffer localhost:8080/write \
      -H 'Content-Type: application/json' -d '{"prompt": "Alice ", "length": 200}'

Not a good writer: the point is the stream. Each character leaves as soon as it is chosen,
and a client that goes away stops the writing.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import BaseModel, Field

from examples.characters.network import load
from instance import ModelAPI


class Beginning(BaseModel):
    """How the text begins, how many characters follow, and how daring they are.

    The same `seed` writes the same text; without one it is different each time.
    """

    prompt: Annotated[str, Field(min_length=1, max_length=500, examples=["Alice "])]
    length: Annotated[int, Field(ge=1, le=5000)] = 200
    temperature: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] = 0.6
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None


class Writer(ModelAPI):
    """Continues the text of a request, one character after the other."""

    stream = True
    example = {"prompt": "Alice ", "length": 20, "seed": 1}

    def setup(self, device: str) -> None:
        self.device = device
        self.network, self.alphabet = load(device)

    def decode_request(self, request: Beginning) -> Beginning:
        return request

    def predict(self, beginning: Beginning) -> Iterator[str]:
        chance = torch.Generator()
        if beginning.seed is None:
            chance.seed()
        else:
            chance.manual_seed(beginning.seed)
        state: torch.Tensor | None = None
        numbers = self.alphabet.numbers(beginning.prompt) or self.alphabet.numbers("\n")
        for _ in range(beginning.length):
            with torch.inference_mode():  # not around the yield: that would leak to others
                inputs = torch.tensor([numbers], device=self.device)
                scores, state = self.network(inputs, state)
                shares = (scores[0, -1].cpu() / beginning.temperature).softmax(-1)
                number = int(torch.multinomial(shares, 1, generator=chance))
            yield self.alphabet.characters[number]
            numbers = [number]

    def encode_response(self, output: Iterator[str]) -> Iterator[str]:
        yield from output
