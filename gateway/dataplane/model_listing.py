"""Is it asked which models there are (`GET /v1/models`)? The gateway answers that itself."""

from typing import Final

from gateway.core.matching import Found, Header, Matched, Matcher
from gateway.core.openai import MODELS, Listing, Model, listing, models_of
from gateway.core.table import Table

_MODELS: Final = MODELS.decode()


class ModelsAsked(Exception):
    """Raised where a request asks which models there are: the gateway answers that itself."""

    def __init__(self, listing: Listing) -> None:
        super().__init__(listing.wanted)
        self.listing = listing


class ModelListing:
    """The models of the routes that `matcher` finds, read off them when they are asked for."""

    __slots__ = ("_matcher", "_models")

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._models: tuple[Model, ...] | None = None

    def asked(
        self, table: Table, matched: Matched, path: str, host: str, header: Header | None
    ) -> Listing | None:
        """What is to be listed where `path`, which holds MODELS, is that of a list. A route that
        names it goes first. `header` is None where the request's are not known."""
        if isinstance(matched, Found):
            named = table.routes[matched.route].match.path
            if named.startswith(path[: path.index(_MODELS) + len(_MODELS)]):
                return None
        if self._models is None:
            entries = self._matcher.index.entries.values()
            order = sorted(entries, key=lambda entry: entry.order)
            self._models = models_of((entry.route, entry.match) for entry in order)
        return listing(self._models, path, host, header)
