"""A model that says where it runs."""

import os
from typing import Any


class Where:
    """Answers anything with the name of its host."""

    def setup(self, device: str) -> None:
        self.host = os.environ.get("HOST_NAME", "here")

    def predict(self, x: Any) -> dict[str, str]:
        return {"host": self.host}
