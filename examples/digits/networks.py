"""What do the two digit classifiers compute? The networks only: no serving, no training.

Both take scans as `…×8×8` with values from 0 to 16, one scan or a batch of them, and
answer `…×10` logits. The scaling is part of the network, so that training and serving
cannot disagree about it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
INK = 16.0  # the darkest pixel


class LinearNetwork(nn.Module):
    """Ten weighted sums over the 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, scans: Tensor) -> Tensor:
        logits: Tensor = self.layer(scans.flatten(-2) / INK)
        return logits


class CnnNetwork(nn.Module):
    """Two convolutions, one pooling, two layers; no batch statistics, so one scan alone
    gets the same answer as in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(48 * 4 * 4, 96),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(96, 10),
        )

    def forward(self, scans: Tensor) -> Tensor:
        features: Tensor = self.features(scans.unsqueeze(-3) / INK)
        logits: Tensor = self.classifier(features.flatten(-3))
        return logits


def load(network: nn.Module, weights: Path, device: str | torch.device) -> nn.Module:
    """`network` with the weights in the file `weights`, on `device` and ready to predict.

    The file is read as tensors and nothing else: a pickle that wants to run code is refused.
    """
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.to(device).eval()
