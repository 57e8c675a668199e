"""How much memory may bodies take that are read to choose a route?

Such a body is held whole before anything is decided, so anybody can make the gateway hold
some. Each is small (`match_body`) and all of one worker together are bounded (`match_memory`):
beyond it the one that has been coming in for longest is refused. An honest body is there
after a few round trips; whoever dawdles to fill the place is who loses it.
"""

from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr, trait

from gateway.core.errors import GatewayError, NoRoom

PIECE_BYTES: Final = 64  # what holding one piece costs beside its bytes


@mypyc_attr(allow_interpreted_subclasses=True)
@trait
class Deciding:
    """A request whose body chooses its route."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_gathering(self) -> bool: ...
    @abstractmethod
    def fail(self, fault: GatewayError) -> None: ...


class DecidingBodies:
    """What is held, by request, in the order in which their bodies began."""

    __slots__ = ("_held", "_max_total", "total")

    def __init__(self, max_total: int) -> None:
        self._max_total = max_total
        self._held: dict[Deciding, int] = {}
        self.total = 0

    def add(self, request: Deciding, size: int) -> None:
        """Counts one more piece of the body of `request`. Where there is no room for it the oldest
        body that is not yet there is refused; raises the NoRoom if that is this one."""
        more = size + PIECE_BYTES
        self._held[request] = self._held.get(request, 0) + more
        self.total += more
        while self.total > self._max_total:
            oldest = next((each for each in self._held if each.is_gathering), request)
            fault = NoRoom("Too much is held of bodies that choose a route.", "overloaded")
            if oldest is request:
                raise fault
            self.drop(oldest)
            oldest.fail(fault)

    def drop(self, request: Deciding) -> None:
        """The body of `request` went on its way, or will never come."""
        self.total -= self._held.pop(request, 0)
