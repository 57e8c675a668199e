"""Which table does a control process start with?

The file, three ways with what the store holds and what was applied before. There are no workers
yet, and nobody is told anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.controlplane.outcomes import Edit, Outcomes, is_placed, revision_of
from gateway.controlplane.published import Applied, Published
from gateway.controlplane.store.former import Former
from gateway.controlplane.store.store import Conflict, Store, Stored, Unavailable
from gateway.core.merging import Merge, diff, merge, same
from gateway.core.table import EMPTY, Document, Table

TRIES = 50  # to be the one whose edit of a shared table comes next
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


@dataclass(frozen=True, slots=True)
class _Met:
    """What is to be stored: `wanted` is the file that counts, `merged` what comes of it where
    `previous` is live, `applied` was applied last and the revision `number` is the last used."""

    previous: Table
    applied: Document
    wanted: Document
    merged: Merge
    number: int

    @property
    def is_news(self) -> bool:
        """Whether it is another table, or has to have another number."""
        is_same = same(self.merged.document, self.previous.document)
        return self.number > self.previous.revision or not is_same


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
    for _ in range(TRIES):
        try:
            stored = store.load()
            met = _met(stored, outcomes, file, again, meets, former)
            merged = replace(met.merged, document=with_places(met.merged.document))
            return _kept(store, stored, outcomes, replace(met, merged=merged), why, again)
        except Conflict:  # another gateway starts as well
            continue
    raise Unavailable("other gateways edit all the time; start again")


def _met(
    stored: Stored | None,
    outcomes: Outcomes,
    file: Document,
    again: bool,
    meets: Meets,
    former: Former | None,
) -> _Met:
    """What `file` makes of what is `stored`, or was in the `former` store."""
    if former is not None and former.is_lost and stored is not None:
        former = None
    if former is not None:
        former.refuse_without(file)
    previous, applied, wanted = EMPTY, _NOTHING, file
    if stored is not None:
        applied = stored.applied or {}
        wanted = applied if again else file
        previous = outcomes.made(EMPTY, stored.newest.document, stored.newest.number)
    base, live = applied, meets(previous.document, applied, wanted)
    number = previous.revision
    if former is not None and former.is_newer:
        base = live = previous.document  # the file has what came after it
    if former is not None and (former.is_newer or stored is None):
        number = max(number, former.stored.newest.number)
    return _Met(previous, applied, wanted, merge(base, wanted, live), number)


def _kept(
    store: Store, stored: Stored | None, outcomes: Outcomes, met: _Met, why: str, again: bool
) -> Beginning:
    """What the store has of it now; Conflict where others have edited since it was `stored`."""
    published, is_late = Published.nothing(met.previous), False
    try:
        if stored is not None and stored.is_copy:
            # What others applied since shows once the store is back, also to a file that is
            # as it was. Started again, no file is to be applied.
            is_late = not again
        elif stored is None or met.is_news:
            # Whatever these backends are served by is started with this table, or was before.
            table = outcomes.made(met.previous, met.merged.document, met.number + 1)
            delta = diff(met.previous.document, table.document)
            tried = Published(met.previous, table, delta, 0)
            store.commit(revision_of(tried, "file", why, "file"), met.wanted)
            published = tried
        elif not same(met.applied, met.wanted):
            store.applied_again(met.wanted, met.previous.revision)
    except Unavailable:
        if stored is None:
            raise
        is_late = True
    kept = tuple(c for c in diff(met.wanted, met.merged.document) if not is_placed(c))
    if is_late:  # what the file overrides shows once it meets what is stored by then
        return Beginning(Applied(published, (), kept), met.applied, met.wanted)
    return Beginning(Applied(published, met.merged.overridden, kept), met.wanted)
