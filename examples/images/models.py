r"""How does a model take a picture? As a file in a form, or as the body itself.

    headgate up examples/images/headgate.yaml
    curl localhost:8080/picture --form image=@examples/images/three.png
    curl localhost:8080/picture -H 'Content-Type: image/png' \
         --data-binary @examples/images/three.png

The picture becomes a scan of 8×8 (dark or bright ink, whatever its corners say the paper
is) and is read by the digit model of `examples/digits`. A file that is no picture is 422;
its size is looked at before its pixels are unpacked, so a small file cannot become a huge
picture.
"""

from io import BytesIO
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from examples.digits.models import Cnn
from instance import Form, RequestError, Upload

FORMATS = ("PNG", "PPM")  # PPM stands for PGM as well
LARGEST_SIDE = 4096


class Picture(Cnn):
    """The digit in a picture."""

    example = None

    def decode_request(self, request: Any) -> list[list[float]]:
        return scan(picture_of(request))


def picture_of(request: Any) -> bytes:
    """The bytes of the picture: the form's file `image`, or the whole body."""
    if isinstance(request, Form):
        image = request.get("image")
        if not isinstance(image, Upload):
            raise RequestError(422, "the form has no file named image")
        return image.read()
    if isinstance(request, bytes):
        return request
    raise RequestError(415, "send a picture, or a form with a file named image")


def scan(picture: bytes) -> list[list[float]]:
    """The picture as 8×8 amounts of ink from 0 to 16."""
    try:
        image = Image.open(BytesIO(picture), formats=FORMATS)
        if max(image.size) > LARGEST_SIDE:
            raise RequestError(422, f"image: more than {LARGEST_SIDE} pixels on a side")
        grey = image.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise RequestError(422, "image: not a PNG or PGM file that can be read") from error
    bright = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).float()
    bright = bright.reshape(1, 1, grey.height, grey.width) / 255
    corners = bright[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].mean()
    ink = 1 - bright if corners > 0.5 else bright
    pixels: list[list[float]] = (
        torch.nn.functional.adaptive_avg_pool2d(ink, 8)[0, 0].mul(16).round().tolist()
    )
    return pixels
