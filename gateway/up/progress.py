"""What does a person see while models load?

On a terminal one moving line per instance; anywhere else one plain line when it begins and
one when it is ready, so that logs stay readable. Everything goes to stderr: stdout is for
results.
"""

import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from gateway.processes.console import can_draw, write
from gateway.up.plan import InstancePlan


class Progress(Protocol):
    """Shows instances coming up; `relay` passes on a line that an instance wrote."""

    def begin(self, plan: InstancePlan) -> None: ...
    def finish(self, plan: InstancePlan) -> None: ...
    def relay(self, line: str) -> None: ...
    def close(self) -> None: ...


class Plain:
    """Plain lines."""

    def __init__(self, to: Callable[[str], None] | None = None) -> None:
        self._write = to or (lambda line: write(sys.stderr, line))
        self._begun: dict[InstancePlan, float] = {}

    def begin(self, plan: InstancePlan) -> None:
        self._begun[plan] = time.monotonic()
        self.relay(f"starting {describe(plan)}")

    def finish(self, plan: InstancePlan) -> None:
        lasted_s = time.monotonic() - self._begun[plan]
        self.relay(f"ready    {plan.name} after {lasted_s:.1f} s")

    def relay(self, line: str) -> None:
        self._write(line)

    def close(self) -> None:
        """Plain lines leave nothing to clear away."""


class Moving:
    """One moving line per instance, as long as any is loading."""

    def __init__(self, console: Console) -> None:
        self._progress = RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[InstancePlan, TaskID] = {}
        self._progress.start()

    def begin(self, plan: InstancePlan) -> None:
        self._tasks[plan] = self._progress.add_task(describe(plan), total=1)

    def finish(self, plan: InstancePlan) -> None:
        self._progress.update(self._tasks[plan], completed=1)

    def relay(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def progress() -> Progress:
    """The display that suits stderr."""
    return Moving(Console(stderr=True)) if can_draw(sys.stderr) else Plain()


def describe(plan: InstancePlan) -> str:
    return f"{plan.name}: {plan.model} on {', '.join(plan.devices)}"
