"""Which scans are trained on, and which third is held out to measure by?

The 1,797 scans come with scikit-learn (8×8 counts of ink from 0 to 16, in many people's
hands). The split is fixed: the same third is held out in training, in the tests and
when accuracy is measured through a gateway.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 1797


class Scans(NamedTuple):
    """`images` is n×8×8 with values from 0 to 16, `digits` the n right answers."""

    images: NDArray[np.float32]
    digits: NDArray[np.int64]


def load() -> tuple[Scans, Scans]:
    """The scans to train on and the held-out third, each digit in the same share of both."""
    bundle = load_digits()
    images, held_images, digits, held_digits = train_test_split(
        bundle.images.astype(np.float32),
        bundle.target.astype(np.int64),
        test_size=1 / 3,
        random_state=SEED,
        stratify=bundle.target,
    )
    return Scans(images, digits), Scans(held_images, held_digits)
