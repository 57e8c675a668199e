"""What does an edit come to, and why may it not be in force?

Values and exceptions that whoever edits gets from the publisher. Nothing here does anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.core.edits import opened
from gateway.core.merging import Change
from gateway.core.table import Table

_MAX_NOTES = 50


class NotInForce(Exception):
    """The edit is durable, but nobody can say that no worker decides by an older table."""

    def __init__(self, revision: int, pids: Sequence[int]) -> None:
        named = ", ".join(map(str, pids))
        super().__init__(
            f"revision {revision} is stored, but worker process {named} neither takes it over nor"
            " ends: it may still decide by an older one"
        )


class NotEverywhere(NotInForce):
    """The edit is durable and in force here, but nobody can say so of all gateways."""

    def __init__(self, revision: int, why: str) -> None:
        Exception.__init__(self, f"revision {revision} is stored and in force here, but {why}")


class Stale(Exception):
    """The edit was made for another revision than the current one."""


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Where an edit is in force, with several gateways: how many decide by it, with how many
    workers, and the names of those that were there and have lost their lease."""

    gateways: int
    workers: int
    lost: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """What an edit came to. In a dry run `table` is the outcome and nothing has changed."""

    previous: Table
    table: Table
    diff: tuple[Change, ...]
    workers: int
    dry_run: bool = False
    everywhere: Everywhere | None = None
    serves: Mapping[str, str] = field(default_factory=dict)
    """Backend → what will be done about its processes."""

    @classmethod
    def nothing(cls, table: Table, *, dry_run: bool = False) -> "Published":
        """What comes of an edit that changes nothing."""
        return cls(table, table, (), 0, dry_run)

    @property
    def opened(self) -> list[str]:
        """In words, which routes asked for a key and do not after this edit."""
        return list(opened(self.previous.document, self.table.document))

    @property
    def revision(self) -> int:
        """The revision that is live after this edit."""
        return self.previous.revision if self.dry_run else self.table.revision


@dataclass(frozen=True, slots=True)
class Applied:
    """What a file came to; `overridden` are the live edits it undid, `kept` those that stay, from
    what the file says to what is live."""

    published: Published
    overridden: tuple[Change, ...]
    kept: tuple[Change, ...] = ()


def start_notes(applied: Applied) -> list[str]:
    """What to say of a start: which routes the file opens, each live edit that it overrides, and,
    by route or backend, those that stay although the file says otherwise."""
    kept: dict[str, list[str]] = {}
    for change in applied.kept:
        section, name, *rest = change.pointer.split("/")[1:]
        told = str(replace(change, pointer="/".join(rest) or "all of it"))
        kept.setdefault(f"{section.removesuffix('s')} {name}", []).append(told)
    lines = [f"by the file, {each}" for each in applied.published.opened]
    lines += [f"the file overrides a live edit: {lost}" for lost in applied.overridden]
    lines += [f"live edits of {what} are kept: {'; '.join(each)}" for what, each in kept.items()]
    more = len(lines) - _MAX_NOTES
    return lines if more <= 0 else [*lines[:_MAX_NOTES], f"and so for {more} more"]
