"""The model that takes pictures, as a class: what becomes of a file that somebody sends."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from examples import images
from instance import Form, RequestError, Upload
from tests.examples.seven import SEVEN
from tests.harness.late import Late

models = Late("examples.images.models")

THREE = Path(images.__file__).parent / "three.png"


@pytest.fixture(scope="module")
def model() -> Any:
    ready = models.Picture()
    ready.setup("cpu")
    return ready


def read(model: Any, request: object) -> int:
    [probabilities] = model.predict([model.decode_request(request)])
    digit: int = model.encode_response(probabilities)["digit"]
    return digit


def saved(image: Image.Image, file_format: str) -> bytes:
    file = BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def test_a_picture_is_read_as_the_body_and_as_a_file_in_a_form(model: Any) -> None:
    picture = THREE.read_bytes()
    assert read(model, picture) == 3
    assert read(model, Form([("image", Upload("three.png", "image/png", picture))])) == 3


@pytest.mark.parametrize("side", [28, 100, 1000])
@pytest.mark.parametrize("file_format", ["PNG", "PPM"])
def test_a_picture_of_any_size_in_either_format_is_read(
    model: Any, side: int, file_format: str
) -> None:
    image = Image.open(THREE).resize((side, side))
    assert read(model, saved(image, file_format)) == 3


def test_bright_ink_on_dark_paper_is_read_as_well(model: Any) -> None:
    assert read(model, saved(ImageOps.invert(Image.open(THREE)), "PNG")) == 3


def test_a_scan_that_was_made_a_picture_comes_back_as_it_was() -> None:
    image = Image.new("L", (8, 8))
    image.putdata([round(pixel * 255 / 16) for row in SEVEN for pixel in row])
    assert models.scan(saved(image, "PNG")) == SEVEN


def refused(model: Any, request: object) -> RequestError:
    with pytest.raises(RequestError) as error:
        model.decode_request(request)
    return error.value


@pytest.mark.parametrize("body", [b"", b"GIF89a", b"P5\n", b"\x89PNG\r\n\x1a\n", b"\0" * 1000])
def test_what_is_no_picture_is_refused(model: Any, body: bytes) -> None:
    error = refused(model, body)
    assert error.status_code == 422
    assert "image" in error.detail


def test_half_a_picture_is_refused(model: Any) -> None:
    assert refused(model, THREE.read_bytes()[:-4000]).status_code == 422


def test_a_small_file_that_would_become_a_huge_picture_is_refused(model: Any) -> None:
    bomb = saved(Image.new("L", (5000, 5000)), "PNG")
    assert len(bomb) < 100_000
    assert refused(model, bomb).status_code == 422


def test_a_form_without_the_file_and_json_are_refused(model: Any) -> None:
    assert refused(model, Form([("picture", "three")])).status_code == 422
    assert refused(model, {"image": "three"}).status_code == 415
