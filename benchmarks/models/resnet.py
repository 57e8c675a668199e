"""A network of ResNet-18's shape with random weights: enough work that batches matter."""

from typing import Any

import torch
from torch import nn

SIDE = 32


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.around = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.around(x))


def network() -> nn.Module:
    """Eight blocks in four stages, as ResNet-18 has them."""
    torch.manual_seed(18)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for outside, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inside, outside, stride), Block(outside, outside, 1)]
        inside = outside
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers).eval()


class ResNet:
    """The most probable class of a picture that is all `input`."""

    max_batch_size = 32
    batch_timeout = 0.005

    def setup(self, device: str) -> None:
        self.device = device
        self.network = network().to(device)

    def decode_request(self, request: dict[str, Any]) -> float:
        return float(request["input"])

    def batch(self, inputs: list[float]) -> list[float]:
        return inputs

    @torch.inference_mode()
    def predict(self, x: list[float]) -> list[int]:
        values = torch.tensor(x, device=self.device).view(-1, 1, 1, 1)
        pictures = values.expand(-1, 3, SIDE, SIDE).contiguous()
        classes: list[int] = self.network(pictures).argmax(1).tolist()
        return classes

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> dict[str, int]:
        return {"class": output}
