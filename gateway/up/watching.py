"""Which models have to be loaded anew, because their code changed (`headgate up --reload`)?

Looks at the times and sizes of the Python files in the folders that models come from, twice a
second and in a thread: a disk may be slow. What changes together is one change. Nothing is loaded
here: who has to, starts new processes.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

LOOK_S = 0.5
MAX_FILES = 5_000
SKIPPED = frozenset({"__pycache__", "site-packages", "node_modules"})

Stamps = Mapping[Path, tuple[int, int]]


class Watch:
    """Calls `changed` with the names of the models whose code is another, by the folders that
    `folders()` gives for each name; `say` gets a line about it."""

    def __init__(
        self,
        folders: Callable[[], Mapping[str, Path]],
        changed: Callable[[Iterable[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self._folders, self._changed, self._say = folders, changed, say

    async def run(self) -> None:
        """Looks until it is cancelled."""
        known: dict[Path, Stamps] = {}
        pending: set[Path] = set()
        while True:
            models = self._folders()
            now = await asyncio.to_thread(stamps_of, set(models.values()))
            moved = {each for each in now.keys() & known.keys() if now[each] != known[each]}
            # One that is still being written is left until it rests.
            if ready := pending - moved:
                names = sorted(name for name, folder in models.items() if folder in ready)
                self._say(f"code changed: loading {', '.join(names)} anew")
                self._changed(names)
            pending, known = moved, now
            await asyncio.sleep(LOOK_S)


def stamps_of(folders: Iterable[Path]) -> dict[Path, Stamps]:
    """Folder → its Python files, below it too, with time and size."""
    return {folder: dict(_files(folder)) for folder in folders}


def _files(folder: Path) -> Iterable[tuple[Path, tuple[int, int]]]:
    found: list[tuple[Path, tuple[int, int]]] = []
    waiting = [folder]
    while waiting and len(found) < MAX_FILES:
        try:
            entries = sorted(waiting.pop().iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SKIPPED:
                continue
            try:
                if entry.is_dir() and not entry.is_symlink():
                    if not (entry / "pyvenv.cfg").exists():
                        waiting.append(entry)
                elif entry.suffix == ".py":
                    stat = entry.stat()
                    found.append((entry, (stat.st_mtime_ns, stat.st_size)))
            except OSError:
                continue
    return found
