"""What would come of an edit? Values in, an outcome or all faults out; nothing is done."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.controlplane.configuration.checks import size_faults
from gateway.controlplane.events import utc_now
from gateway.controlplane.published import Published
from gateway.controlplane.store.store import Revision, Source
from gateway.core.deltas import Delta
from gateway.core.faults import Fault, Invalid
from gateway.core.merging import Change, diff_of, held_to, unserved
from gateway.core.placement import held, outlook, unplaced
from gateway.core.table import Document, Table, TableError


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Tries edits. `check` finds what is contradictory in a document; `is_held`: processes are held
    to the table (`headgate up`)."""

    check: Callable[[Document], list[Fault]]
    is_held: bool

    def tried(self, previous: Table, document: Document, *, places: bool = False) -> Published:
        """What `document` would make of `previous`; Invalid names every fault of it."""
        before, serves = previous.document, {}
        if not places:
            document = (held if self.is_held else unplaced)(before, document)
        table = self.made(previous, document, previous.revision + 1)
        changes = diff_of(Delta.between(before, document), before, document)
        if not self.is_held:
            changes = unserved(changes, before, document)
        elif not places:
            serves = outlook(before, document)
            changes = held_to(changes, serves)
        return Published(previous, table, changes, 0, serves=serves)

    def made(self, previous: Table, document: Document, revision: int) -> Table:
        """The table of `document`, which shares with `previous` what is the same."""
        faults = size_faults(document) or self.check(document)
        if faults:
            raise Invalid(faults)
        try:
            delta = Delta.between(previous.document, document)
            return previous.edited(delta, revision, document)
        except TableError as error:
            raise Invalid([Fault(error.pointer, "invalid", error.detail)]) from None


def is_placed(change: Change) -> bool:
    """Whether `change` only says where processes are."""
    parts = change.pointer.split("/")
    return parts[1] == "backends" and parts[3:] == ["placed"]


def revision_of(tried: Published, who: str, why: str, source: Source) -> Revision:
    """What is stored of an edit that was `tried`."""
    changes = [change.as_json() for change in tried.diff]
    table = tried.table
    return Revision(table.revision, utc_now(), who, why, source, changes, table.document)


def both(previous: Table, table: Table) -> Table:
    """`table` with the backends and instances of `previous` beside its own; they drain: workers
    that have the new table already do not count them any more among those that may get requests.
    """
    if table.backends is previous.backends:
        return table
    backends = dict(table.backends)
    for name, old in previous.backends.items():
        new = backends.get(name)
        if new is None:
            backends[name] = old
            continue
        stays = {instance.url for instance in new.instances}
        leaving = tuple(
            replace(each, state="draining") for each in old.instances if each.url not in stays
        )
        if leaving:
            backends[name] = replace(new, instances=new.instances + leaving)
    return replace(table, backends=backends)
