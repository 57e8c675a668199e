"""How often were models started, how long do they load, and which of them do not fit?"""

from collections.abc import Callable


class Loads:
    """What became of the starts of each backend; `say` is told of those that do not fit."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._full: dict[str, str] = {}
        self.starts: dict[str, int] = {}
        self.load_s: dict[str, float] = {}

    def begun(self, backend: str) -> None:
        """One process was started for it."""
        self.starts[backend] = self.starts.get(backend, 0) + 1

    def ready(self, backend: str, lasted_s: float) -> None:
        """One process was ready so long after its start."""
        self.load_s[backend] = lasted_s

    def note_full(self, full: dict[str, str]) -> None:
        """Notes which models do not fit, and why: that is said once."""
        for name, why in full.items():
            if name not in self._full:
                self._say(f"backend {name}: {why}")
        self._full = dict(full)
