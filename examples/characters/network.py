"""Which character comes next? A small recurrent network over the letters of one book.

No serving and no training here. The alphabet is part of the weights file's meaning: it is
taken from the book beside it, in code point order.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights.pt"
BOOK = FOLDER / "alice.txt"
HIDDEN = 224


class Alphabet:
    """The characters of the book, each with its number."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self._numbers = {character: number for number, character in enumerate(self.characters)}

    def numbers(self, text: str) -> list[int]:
        """The numbers of the characters of `text` that the book has; others are left out."""
        return [self._numbers[character] for character in text if character in self._numbers]


class CharacterNetwork(nn.Module):
    """Scores for the next character, and the state that remembers what came before."""

    def __init__(self, alphabet_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet_size, 48)
        self.memory = nn.GRU(48, HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(0.25)
        self.scores = nn.Linear(HIDDEN, alphabet_size)

    def forward(self, numbers: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores `batch×length×alphabet` after each of `numbers` (`batch×length`)."""
        hidden, after = self.memory(self.embedding(numbers), state)
        return self.scores(self.dropout(hidden)), after


def load(device: str | torch.device) -> tuple[CharacterNetwork, Alphabet]:
    """The trained network on `device`, and its alphabet. Reads tensors and nothing else."""
    alphabet = Alphabet(BOOK.read_text(encoding="ascii"))
    network = CharacterNetwork(len(alphabet.characters))
    state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.to(device).eval(), alphabet
