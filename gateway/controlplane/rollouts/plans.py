"""What does a plan of a rollout say, and what is wrong with it?

Turns the body of `PUT …/rollout` into a `core.rollout.Plan`, with every fault at once by where it
stands. It asks nobody whether the canary is any good.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from fractions import Fraction
from math import isfinite
from typing import Any

from gateway.core.faults import Fault, Invalid, did_you_mean, pointer
from gateway.core.rollout import Guard, Plan, Step
from gateway.core.units import parse_duration

Json = Any
STEPS: tuple[Json, ...] = (1, 5, 25, 50, 100)
HOLD, MIN_REQUESTS, WARMUP = "2m", 100, 20
MAX_STEPS = 100
MAX_COUNT = 1_000_000_000
MAX_WHY = 500
MAX_HOLD_S = 366 * 86400.0
_KEYS = ("to", "steps", "hold", "min_requests", "warmup", "guards", "on_done", "why")
_STEP = ("percent", "hold", "min_requests", "approval")
_GUARDS: dict[str, tuple[str, ...]] = {
    "errors": ("alpha", "on_fail"),
    "latency": ("alpha", "on_fail", "slower_than"),
    "predictions": ("alpha", "on_fail", "field"),
    "agreement": ("alpha", "on_fail", "at_least"),
}
_ON_FAILURE = {"predictions": "warn", "agreement": "hold"}
_USUAL = ("errors", "latency")
_POINTER = re.compile(r"(/([^/~\x00-\x1f]|~[01]){0,64}){1,16}")
_ON_FAIL = ("rollback", "hold", "warn")
_ON_DONE = ("keep", "remove_old")


def read_plan(
    said: Mapping[str, Json],
    weights: Mapping[str, int],
    is_compared: Callable[[str], bool] | None = None,
    empty: Set[str] = frozenset(),
) -> Plan:
    """The plan that `said` describes for a route with these `weights`; Invalid names all faults.
    `is_compared`: whether answers of a canary are compared by a mirror of the route; None for a
    plan that was taken already, which is asked for no more than it was then. Backends that are
    `empty` have no instance."""
    reader = _Reader(is_compared, empty)
    plan = reader.plan(said, weights)
    if reader.faults or plan is None:
        raise Invalid(reader.faults)
    return plan


class _Reader:
    """Reads, and notes what is wrong."""

    def __init__(self, is_compared: Callable[[str], bool] | None, empty: Set[str]) -> None:
        self._is_compared, self._empty = is_compared, empty
        self.faults: list[Fault] = []

    def plan(self, said: Mapping[str, Json], weights: Mapping[str, int]) -> Plan | None:
        """The plan that `said` describes for a split of `weights`; None where there are faults."""
        self._known(said, _KEYS, "")
        to = self._to(said.get("to"), weights)
        hold_s = self._duration(said.get("hold", HOLD), "/hold")
        least = self._count(said.get("min_requests", MIN_REQUESTS), "/min_requests", 1)
        warmup = self._count(said.get("warmup", WARMUP), "/warmup", 0)
        steps = self._steps(said.get("steps", list(STEPS)), hold_s, least)
        guards = self._guards(said.get("guards"))
        on_done = self._one_of(said.get("on_done", "keep"), _ON_DONE, "/on_done")
        if self._is_compared is not None:
            self._check_mirror(to, guards, self._is_compared)
            self._check_end(steps, on_done)
        why = said.get("why", "")
        if not isinstance(why, str) or len(why) > MAX_WHY or not why.isprintable():
            self._fault("/why", "type", f"must be one printable line of up to {MAX_WHY}")
        if self.faults:
            return None
        return Plan(to, steps, guards, warmup, on_done, why)

    def _check_mirror(
        self, to: str, guards: Iterable[Guard], is_compared: Callable[[str], bool]
    ) -> None:
        if any(guard.name == "agreement" for guard in guards) and not is_compared(to):
            detail = f"needs a mirror of this route to {to!r} whose answers are compared"
            hint = f"mirror: {{backend: {to}, compare: {{}}}}"
            self._fault("/guards/agreement", "no_mirror", detail, hint)

    def _check_end(self, steps: Sequence[Step], on_done: Json) -> None:
        if on_done == "remove_old" and steps and 0 < steps[-1].percent < 100:
            detail = f"at {percent_of(steps[-1]):g} % the old backends have the rest"
            self._fault("/on_done", "rest", f"{detail}: let the last step be 100")

    def _fault(self, where: str, code: str, detail: str, hint: str = "") -> None:
        self.faults.append(Fault(where, code, detail, hint))

    def _known(self, said: Mapping[str, Json], keys: tuple[str, ...], at: str) -> None:
        for key in said:
            if key not in keys:
                hint = did_you_mean(key, keys)
                self._fault(f"{at}{pointer(key)}", "unknown_key", "unknown key", hint)

    def _to(self, to: Json, weights: Mapping[str, int]) -> str:
        if to is None:
            self._fault("/to", "missing", "is missing: a backend of the route's split")
        elif not isinstance(to, str) or to not in weights:
            hint = did_you_mean(to, weights) if isinstance(to, str) else ""
            there = f"no backend of the route's split ({', '.join(weights)})"
            self._fault("/to", "unknown_backend", f"{there}; weight 0 is enough", hint)
        elif not any(weight for name, weight in weights.items() if name != to):
            detail = f"all of the route's weight is on {to!r}: there is nothing to compare it with"
            self._fault("/to", "nothing_beside", detail)
        elif to in self._empty:
            self._fault("/to", "no_instance", f"backend {to!r} has no instance: add one first")
        return to if isinstance(to, str) else ""

    def _steps(self, said: Json, hold_s: float, least: int) -> tuple[Step, ...]:
        if not isinstance(said, list) or not 1 <= len(said) <= MAX_STEPS:
            self._fault("/steps", "type", f"must be a list of 1 to {MAX_STEPS} steps")
            return ()
        steps: list[Step] = []
        highest = Fraction(0)
        for number, each in enumerate(said):
            step = self._step(each, pointer("steps", number), hold_s, least)
            if step.percent and step.percent <= highest:
                detail = f"steps rise: {float(step.percent):g} % comes after {float(highest):g} %"
                self._fault(pointer("steps", number), "order", detail)
            highest = max(highest, step.percent)
            steps.append(step)
        return tuple(steps)

    def _step(self, said: Json, at: str, hold_s: float, least: int) -> Step:
        if not isinstance(said, Mapping):
            return Step(self._percent(said, at), hold_s, least)
        self._known(said, _STEP, at)
        if "hold" in said:
            hold_s = self._duration(said["hold"], f"{at}/hold")
        if "min_requests" in said:
            least = self._count(said["min_requests"], f"{at}/min_requests", 1)
        approval = said.get("approval", False)
        if not isinstance(approval, bool):
            self._fault(f"{at}/approval", "type", "must be true or false")
        percent = self._percent(said.get("percent"), f"{at}/percent")
        return Step(percent, hold_s, least, approval is True)

    def _percent(self, said: Json, at: str) -> Fraction:
        if type(said) in (int, float) and isfinite(said) and 0 < said <= 100:
            found = Fraction(str(said))
            if (found * 100).denominator == 1:
                return found
        self._fault(at, "percent", "must be a percent from 0.01 to 100, of at most two decimals")
        return Fraction(0)

    def _duration(self, said: Json, at: str) -> float:
        try:
            seconds = parse_duration(said) if isinstance(said, str) else -1.0
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= MAX_HOLD_S:
            self._fault(at, "duration", "must be a duration such as 30s, 2m or 1h")
        return seconds

    def _count(self, said: Json, at: str, least: int) -> int:
        if type(said) is not int or not least <= said <= MAX_COUNT:
            self._fault(at, "count", f"must be a whole number from {least} to {MAX_COUNT:,}")
            return least
        return said

    def _one_of(self, said: Json, words: tuple[str, ...], at: str) -> Any:
        if not isinstance(said, str) or said not in words:
            self._fault(at, "word", f"must be one of {', '.join(words)}")
        return said

    def _guards(self, said: Json) -> tuple[Guard, ...]:
        if said is None:
            return tuple(Guard(name) for name in _USUAL)
        if not isinstance(said, Mapping) or not said:
            self._fault("/guards", "type", "must be an object of guards; left out: errors, latency")
            return ()
        return tuple(guard for name, each in said.items() for guard in self._guard(name, each))

    def _guard(self, name: str, said: Json) -> Iterator[Guard]:
        at = pointer("guards", name)
        if name not in _GUARDS:
            self._fault(at, "unknown_key", "no such guard", did_you_mean(name, _GUARDS))
        elif not isinstance(said, Mapping | None):
            self._fault(at, "type", "must be an object")
        else:
            said = said or {}
            self._known(said, _GUARDS[name], at)
            yield Guard(
                name,
                self._number(said.get("alpha", 0.01), f"{at}/alpha", 1e-6, 0.5),
                self._one_of(
                    said.get("on_fail", _ON_FAILURE.get(name, "rollback")),
                    _ON_FAIL,
                    f"{at}/on_fail",
                ),
                self._number(said.get("slower_than", 1.2), f"{at}/slower_than", 1.0, 1000.0),
                self._field(said.get("field"), f"{at}/field") if name == "predictions" else "",
                self._number(said.get("at_least", 0.98), f"{at}/at_least", 0.5, 0.999999),
            )

    def _field(self, said: Json, at: str) -> str:
        if isinstance(said, str) and _POINTER.fullmatch(said):
            return said
        self._fault(at, "pointer", "must be the JSON pointer of what is predicted, such as /digit")
        return ""

    def _number(self, said: Json, at: str, least: float, most: float) -> float:
        if type(said) not in (int, float) or not least <= said <= most:
            self._fault(at, "number", f"must be a number from {least:g} to {most:g}")
            return least
        return float(said)


def percent_of(step: Step) -> float | int:
    """The share of a step as JSON shows it."""
    return int(step.percent) if step.percent.denominator == 1 else float(step.percent)


def shown(plan: Plan) -> dict[str, Json]:
    """`plan` as JSON, with all that was left out filled in."""
    return {
        "to": plan.to,
        "steps": [
            {
                "percent": percent_of(step),
                "hold": f"{step.hold_s:g}s",
                "min_requests": step.min_requests,
                "approval": step.approval,
            }
            for step in plan.steps
        ],
        "warmup": plan.warmup,
        "guards": {
            guard.name: {"alpha": guard.alpha, "on_fail": guard.on_fail}
            | ({"slower_than": guard.slower_than} if guard.name == "latency" else {})
            | ({"field": guard.field} if guard.field else {})
            | ({"at_least": guard.at_least} if guard.name == "agreement" else {})
            for guard in plan.guards
        },
        "on_done": plan.on_done,
        "why": plan.why,
    }
