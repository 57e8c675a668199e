"""The digit network of the examples, in batches of up to 32."""

from examples.digits.models import Cnn as Example


class Cnn(Example):
    """Its hooks and weights."""

    max_batch_size = 32
    batch_timeout = 0.005
