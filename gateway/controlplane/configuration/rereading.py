"""What becomes of a file that is read again while the gateway runs?

The same as with `headgate apply`: what the file changed wins, what only the admin API changed
stays, and settings wait for a restart. A file with a fault changes nothing.
"""

import asyncio
import os
from pathlib import Path

from gateway.controlplane.configuration.reading import ConfigurationError, Loaded, load
from gateway.controlplane.configuration.settings import Settings, differing
from gateway.controlplane.published import Applied, NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.store import StoreError
from gateway.core.faults import Conflict, Invalid


async def reread(path: Path, publisher: Publisher, running: Settings) -> list[str]:
    """Applies the file at `path` as it is now; says in lines what came of it."""
    try:
        loaded = await asyncio.to_thread(load, path)
        why = f"{path} was read again"
        applied = await publisher.apply(loaded.document, who="file", why=why)
    except ConfigurationError as error:
        return [*str(error).splitlines(), f"{path}: not applied; everything goes on as it was"]
    except NotInForce as error:
        return [f"{path}: {error}"]
    except (Invalid, Conflict, StoreError) as error:
        return [f"{path}: not applied: {error}; everything goes on as it was"]
    return _told(path, loaded, applied, running)


def _told(path: Path, loaded: Loaded, applied: Applied, running: Settings) -> list[str]:
    published = applied.published
    count = len(published.diff)
    if count:
        changes = f"{count} change{'' if count == 1 else 's'}"
        lines = [f"{path} was read again: revision {published.revision}, {changes}"]
    else:
        lines = [f"{path} was read again: it changes nothing"]
    lines += [f"by the file, {each}" for each in published.opened]
    lines += [f"the file overrides a live edit: {lost}" for lost in applied.overridden]
    lines += [f"{change}: {change.note}" for change in published.diff if change.note]
    if keys := differing(loaded.settings, running, os.environ):
        lines.append(f"these settings take a restart: {', '.join(keys)}")
    return lines
