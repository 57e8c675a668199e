"""How were the weights in `weights/` made? Run `python -m examples.digits.train`.

Trains both networks from a fixed seed on two thirds of the scans, measures them on the
held-out third and writes them only when they are as good as promised. Nothing about the
held-out third is looked at before that: epochs and rates are fixed.
"""

import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.digits import scans
from examples.digits.networks import WEIGHTS, CnnNetwork, LinearNetwork


class Recipe(NamedTuple):
    """How one network is trained, and the accuracy that it must reach."""

    network: type[nn.Module]
    epochs: int
    rate: float
    decay: float
    shift: int  # scans move by up to this many pixels while training
    promised: float


RECIPES = {
    "linear": Recipe(LinearNetwork, epochs=60, rate=1e-2, decay=1e-4, shift=0, promised=0.93),
    "cnn": Recipe(CnnNetwork, epochs=60, rate=2e-3, decay=1e-3, shift=1, promised=0.975),
}
BATCH = 64


def train(recipe: Recipe, images: Tensor, digits: Tensor) -> nn.Module:
    """A trained network; the same one for the same input."""
    torch.manual_seed(scans.SEED)
    network = recipe.network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(recipe.epochs):
        for chosen in torch.split(torch.randperm(len(images)), BATCH):
            loss = loss_of(network(shifted(images[chosen], recipe.shift)), digits[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def shifted(images: Tensor, pixels: int) -> Tensor:
    """The same scans, the whole batch moved by a random 0 to `pixels` in each direction."""
    if not pixels:
        return images
    padded = nn.functional.pad(images, [pixels] * 4)
    top, left = torch.randint(0, 2 * pixels + 1, (2,)).tolist()
    return padded[:, top : top + 8, left : left + 8]


@torch.inference_mode()
def accuracy(network: nn.Module, held_out: scans.Scans) -> float:
    """The share of the held-out scans that are read right."""
    answers = network(torch.from_numpy(held_out.images)).argmax(-1)
    return float((answers == torch.from_numpy(held_out.digits)).double().mean())


def main() -> int:
    torch.set_num_threads(1)  # sums in a fixed order: the same weights on every run
    training, held_out = scans.load()
    images, digits = torch.from_numpy(training.images), torch.from_numpy(training.digits)
    WEIGHTS.mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        network = train(recipe, images, digits)
        reached = accuracy(network, held_out)
        print(f"{name}: {reached:.4f} of {len(held_out.digits)} held-out scans")
        if reached < recipe.promised:
            print(f"{name} misses the promised {recipe.promised}; not written", file=sys.stderr)
            return 1
        torch.save(network.state_dict(), WEIGHTS / f"{name}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
