"""What do instances write, and who gets to see it?

The last lines of each backend are kept for whoever asks; all go on to the log of `headgate up`.
"""

from collections import deque
from collections.abc import Callable, Collection

from gateway.up.plan import InstancePlan
from gateway.wire.line import AskLogs, Logs

LINES_KEPT = 500  # for each backend
MAX_LINE = 4096


class Lines:
    """The lines that instances wrote; `relay` passes on those that go to the log."""

    def __init__(self, relay: Callable[[str], None]) -> None:
        self._relay = relay
        self._logs: dict[str, deque[tuple[int, str, str]]] = {}

    def keep_only(self, backends: Collection[str]) -> None:
        """Forgets what others wrote."""
        self._logs = {name: log for name, log in self._logs.items() if name in backends}

    def answer(self, asked: AskLogs) -> Logs:
        """The last lines that are asked for."""
        log = self._logs.get(asked["backend"], ())
        lines = [line for line in log if line[0] > asked["after"]][-asked["lines"] :]
        return {"type": "logs", "id": asked["id"], "lines": lines}

    def keep(self, plan: InstancePlan, line: str) -> None:
        """Keeps `line` for who asks for the last ones."""
        log = self._logs.setdefault(plan.backend, deque(maxlen=LINES_KEPT))
        number = log[-1][0] + 1 if log else 1
        log.append((number, plan.instance.address, line[:MAX_LINE]))

    def relay(self, plan: InstancePlan, line: str) -> None:
        """Passes `line` on, with whose it is."""
        name = f"{plan.backend}:{plan.instance.port}"
        if line.startswith('{"time":"') and line.endswith("}"):  # the log, as ours is written
            self._relay(f'{line[:-1]},"instance":"{name}"}}')
        else:
            self._relay(f"{name} | {line}")
