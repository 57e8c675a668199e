"""Two versions of one model: handwritten digits, read by a linear layer or by a small CNN."""
