"""Which state belongs to which configuration file?

Live edits are differences to one file; another file beside it must not inherit them. The
`.headgate/` in a folder belongs to the file that was started first there, any other file of the
folder has a directory of its own in it. A directory that was named (`--state-dir`) is one
state, whatever file it is used with; that it was used with another one before is said.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path, PurePath

from gateway.controlplane.store.names import DATABASE, FILES, OWNER, STATE_NAME

_STARTED = "start with "  # how the history says it (`gateway.control`)


def directory_for(file: Path) -> Path:
    """The state directory of `file`, where none was named."""
    home = file.absolute().parent / STATE_NAME
    return home if owner_of(home) in (None, file.name) else home / FILES / file.name


def claim(directory: Path, file: Path) -> str:
    """Notes that the state in `directory`, which is locked, belongs to `file`. A line about another
    file that it belonged to, or whose state is in the same folder; "" if there is none."""
    before = owner_of(directory)
    scrap = directory / f"{OWNER}.new"
    scrap.write_text(f"{file.name}\n")
    os.replace(scrap, directory / OWNER)
    if before not in (None, file.name):
        return f"the state in {directory} was last used with {before}; it goes on with {file.name}"
    if directory.parent.name == FILES and before is None:
        home = directory.parent.parent
        return (
            f"the state in {home} belongs to {owner_of(home)}; {file.name} begins with its own, in "
            f"{directory} (--state-dir {home} goes on with the other)"
        )
    return ""


def owner_of(directory: Path) -> str | None:
    """The name of the file whose state is in `directory`; None if nobody's is, or nobody knows."""
    try:
        return (directory / OWNER).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return _last_started(directory / DATABASE)


def _last_started(database: Path) -> str | None:
    """The file that the history in `database` names as started last: states of before this was
    noted. Whatever cannot be read is said when the state is opened."""
    if not database.is_file():
        return None
    found: list[tuple[int, str]] = []
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as db:
            for table in ("edits", "revisions"):
                if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                    found += db.execute(
                        f"SELECT number, why FROM {table} WHERE source = 'file' AND why LIKE ?"  # noqa: S608
                        " ORDER BY number DESC LIMIT 1",
                        (f"{_STARTED}%",),
                    )
    except sqlite3.Error:
        return None
    return PurePath(max(found)[1].removeprefix(_STARTED)).name if found else None
