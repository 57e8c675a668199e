"""The page at /docs: the OpenAPI document for people, with nothing from the internet."""

from functools import cache
from pathlib import Path


@cache
def docs_page() -> bytes:
    """The page, which reads /openapi.json from beside itself."""
    return (Path(__file__).parent / "docs.html").read_bytes()
