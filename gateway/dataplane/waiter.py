"""What does a backend know of a request that waits in its queue?"""

from abc import abstractmethod

from mypy_extensions import mypyc_attr

from gateway.core.errors import GatewayError
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.instance import LiveInstance


@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter(Timed):
    """What waits for an instance: since `ready_at`, and until `expires_at` at most."""

    __slots__ = ("expires_at", "ready_at", "turn")
    expires_at: float
    ready_at: float
    turn: float

    @property
    def consumer(self) -> str:
        """Whose request it is; "" if that is not known."""
        return ""

    @property
    def wakes(self) -> bool:
        """Whether a backend that is asleep is to be started for it."""
        return True

    def loaded(self) -> None:
        """The backend that it waited for has been started."""

    @abstractmethod
    def begin(self, instance: LiveInstance, now: float) -> None: ...
    @abstractmethod
    def move_on(self) -> None: ...
    @abstractmethod
    def fail(self, fault: GatewayError) -> None: ...
