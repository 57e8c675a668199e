"""How was `weights.pt` made? Run `python -m examples.characters.train` (some minutes).

Trains on the book (Lewis Carroll, Alice's Adventures in Wonderland, 1865, public domain)
from a fixed seed, prints the loss, and keeps the weights in half precision: the file is
half as large and the text reads the same.
"""

import torch
from torch import nn

from examples.characters.network import BOOK, WEIGHTS, Alphabet, CharacterNetwork

SEED = 1865
EPOCHS = 50
BATCH = 32
LENGTH = 128  # characters that one step looks back over
RATE = 4e-3


def train(text: str) -> CharacterNetwork:
    """A network that continues `text`'s way of writing; the same one for the same text."""
    torch.manual_seed(SEED)
    alphabet = Alphabet(text)
    numbers = torch.tensor(alphabet.numbers(text))
    network = CharacterNetwork(len(alphabet.characters))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    steps_per_epoch = len(numbers) // (BATCH * LENGTH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=EPOCHS * steps_per_epoch
    )
    loss_of = nn.CrossEntropyLoss()
    window = torch.arange(LENGTH + 1)
    for epoch in range(EPOCHS):
        total = 0.0
        for _ in range(steps_per_epoch):
            starts = torch.randint(0, len(numbers) - LENGTH, (BATCH, 1))
            pieces = numbers[starts + window]
            scores, _ = network(pieces[:, :-1])
            loss = loss_of(scores.flatten(0, 1), pieces[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1:>2} of {EPOCHS}  loss {total / steps_per_epoch:.3f}", flush=True)
    return network.eval()


def main() -> None:
    torch.set_num_threads(1)  # sums in a fixed order: the same weights on every run
    network = train(BOOK.read_text(encoding="ascii"))
    torch.save({name: tensor.half() for name, tensor in network.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
