"""Which table does a control process start with?

The file, three ways with what the store holds and what was applied before. There are no workers
yet, and nobody is told anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.controlplane.outcomes import Edit, Outcomes, is_placed, revision_of
from gateway.controlplane.published import Applied, Published
from gateway.controlplane.store.former import Former
from gateway.controlplane.store.store import Conflict, Store, Unavailable
from gateway.core.merging import diff, merge, same
from gateway.core.table import EMPTY, Document, Table

TRIES = 50
_NOTHING: Document = {}

Meets = Callable[[Document, Document, Document], Document]
"""(live, applied, file) → what `file`, which is another one than was `applied`, is merged with."""


def as_it_is(live: Document, applied: Document, file: Document) -> Document:
    """A file meets what is live."""
    return live


@dataclass(frozen=True, slots=True)
class Beginning:
    """What came of the start; `applied` is the file that was applied last, and `late` the one that
    the store could not be asked to take."""

    outcome: Applied
    applied: Document
    late: Document | None = None

    @property
    def table(self) -> Table:
        """The table to start with."""
        return self.outcome.published.table


def begin(
    store: Store,
    outcomes: Outcomes,
    file: Document,
    *,
    why: str,
    again: bool,
    with_places: Edit,
    meets: Meets,
    former: Former | None = None,
) -> Beginning:
    """The table of `file` and `store`, stored. Raises Invalid when the two do not fit together,
    StoreError when the outcome cannot be stored. Where the table was in another store before, which
    is `former`, the file must have all that was live there, and no number is used again."""

    def once() -> Beginning:
        previous, applied = EMPTY, _NOTHING
        stored = store.load()
        left = former
        if former is not None and former.is_lost and stored is not None:
            left = None
        if left is not None:
            left.refuse_without(file)
        wanted = file
        if stored is not None:
            applied = stored.applied or {}
            if again:
                wanted = applied
            newest = stored.newest
            previous = outcomes.made(EMPTY, newest.document, newest.number)
        base, live = applied, meets(previous.document, applied, wanted)
        number = previous.revision
        if left is not None and left.is_newer:
            base = live = previous.document  # the file has what came after it
        if left is not None and (left.is_newer or stored is None):
            number = max(number, left.stored.newest.number)
        merged = merge(base, wanted, live)
        merged = replace(merged, document=with_places(merged.document))
        published, late = Published.nothing(previous), None
        try:
            if stored is not None and stored.is_copy:
                # What others applied since shows once the store is back, also to a file that is
                # as it was. Started again, no file is to be applied.
                late = None if again else wanted
            elif (
                stored is None
                or number > previous.revision
                or not same(merged.document, previous.document)
            ):
                # Whatever these backends are served by is started with this table, or was before.
                table = outcomes.made(previous, merged.document, number + 1)
                tried = Published(previous, table, diff(previous.document, table.document), 0)
                store.commit(revision_of(tried, "file", why, "file"), wanted)
                published = tried
            elif not same(applied, wanted):
                store.applied_again(wanted, previous.revision)
            if late is None:
                applied = wanted
        except Unavailable:
            if stored is None:
                raise
            late = wanted
        kept = tuple(c for c in diff(wanted, merged.document) if not is_placed(c))
        # What a file overrides that is late shows once it meets what is stored by then.
        outcome = Applied(published, () if late is not None else merged.overridden, kept)
        return Beginning(outcome, applied, late)

    for _ in range(TRIES):
        try:
            return once()
        except Conflict:  # another gateway starts as well
            continue
    raise Unavailable("other gateways edit all the time; start again")
