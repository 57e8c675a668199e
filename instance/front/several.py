"""How do several models share one port?

Each has its own surface, queue and workers; a request goes to the one whose path it names.
What is asked of the instance as a whole (health, what it is, its documents, its counters) is
answered here for all of them together.
"""

from collections.abc import Sequence

from instance.core.errors import Problem
from instance.front.http import Surface
from instance.front.incoming import Incoming
from instance.front.openapi import merged
from instance.front.pages import Page, json_page, ready_page


class Several:
    """The surfaces of one instance; the first also answers what concerns all."""

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        self._all = list(surfaces)
        self._first = surfaces[0]
        for surface in surfaces:
            others = [other for other in surfaces if other is not surface]
            surface.endpoint.neighbours = [other.endpoint for other in others]
            surface.pages.neighbours = [other.pages for other in others]
        self._first.pages.replace(
            ready=self._ready, info=self._info, openapi=self._openapi, metrics=self._metrics
        )

    def begin(self, incoming: Incoming) -> Problem | None:
        return self._of(incoming).begin(incoming)

    def handle(self, incoming: Incoming) -> None:
        self._of(incoming).handle(incoming)

    def leave(self, incoming: Incoming) -> None:
        self._of(incoming).leave(incoming)

    def refuse(self, incoming: Incoming, problem: Problem) -> None:
        self._of(incoming).refuse(incoming, problem)

    async def finish(self) -> None:
        for surface in self._all:
            await surface.finish()

    def _of(self, incoming: Incoming) -> Surface:
        """Whose path it is; the first's while no model has said its path, and of no path."""
        path = incoming.path
        for surface in self._all:
            if surface.has(path):
                return surface
        return self._first

    def _ready(self) -> Page:
        return ready_page(all(surface.ready for surface in self._all))

    def _info(self) -> Page:
        models = [surface.pages.info() for surface in self._all]
        ready = all(surface.ready for surface in self._all)
        metadata = [model.pop("model") for model in models]
        return json_page({"model": metadata[0], "ready": ready, "models": models})

    def _openapi(self) -> Page:
        return json_page(merged([surface.pages.document() for surface in self._all]))

    def _metrics(self) -> Page:
        return self._first.pages.metrics_of([surface.pages for surface in self._all])
