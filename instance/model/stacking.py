"""The default batch: several inputs stacked into one array, where they fit together."""

from collections.abc import Sequence
from typing import Any

import instance.devices as devices


def stack(inputs: Sequence[Any]) -> Any:
    """The default batch: tensors and arrays are stacked, anything else stays a list."""
    first = inputs[0]
    if hasattr(first, "__torch_function__"):
        return devices.stack_tensors(inputs)
    if type(first).__name__ == "ndarray" and type(first).__module__ == "numpy":
        import numpy as np

        return np.stack(inputs)
    return inputs


def shape_of(value: Any) -> Any:
    """What must be equal for two inputs to be stacked; None for what is not stacked."""
    if hasattr(value, "__torch_function__") or type(value).__name__ == "ndarray":
        return (tuple(value.shape), str(value.dtype))
    return None
