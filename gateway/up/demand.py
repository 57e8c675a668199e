"""Which of the models that start on demand are awake?

One wakes when a request asks for it, and sleeps again when nobody has asked for long, or when
another one needs the room. Who asks and who uses them is told by the control process, as often as
it looks; a clock is an argument.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.core.devices import Guest, turn_s
from gateway.core.placement import on_demand
from gateway.core.retrying import START_AGAIN_S
from gateway.core.units import parse_duration
from gateway.wire.line import ModelUse

Spec = Mapping[str, Any]


class _Model:
    """One backend that starts on demand."""

    __slots__ = ("asked_at", "failed_at", "has_failed", "idle_s", "is_awake", "is_busy", "is_kept",
                 "ready_at", "spec", "used_at")  # fmt: skip

    def __init__(self) -> None:
        self.idle_s: float | None = None
        self.spec: Spec = {}
        self.has_failed = False
        self.is_awake = self.is_busy = self.is_kept = False
        self.asked_at = self.used_at = 0.0
        self.ready_at: float | None = None
        self.failed_at: float | None = None


class Demand:
    """Who is awake of what is served, at the times of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models: dict[str, _Model] = {}

    def want(self, specs: Mapping[str, Spec], running: Iterable[str]) -> None:
        """Takes over what is served from now on; one that is new here is awake if it is `running`.
        One that could not be loaded and was edited sleeps: the next request has it tried again."""
        awake, now = set(running), self._clock()
        before, self._models = self._models, {}
        for name, spec in specs.items():
            if not on_demand(spec):
                continue
            model = self._models[name] = before.get(name) or _Model()
            idle = spec["serve"].get("idle")
            model.idle_s = parse_duration(idle) if idle else None
            if model.has_failed and model.spec != spec and name not in awake:
                model.is_awake = model.is_busy = model.has_failed = False
            model.spec = spec
            if name not in before and name in awake:
                model.is_awake, model.ready_at, model.used_at = True, now, now

    def is_asleep(self, name: str) -> bool:
        model = self._models.get(name)
        return model is not None and not model.is_awake

    def knows(self, name: str) -> bool:
        """Whether it is one that starts on demand."""
        return name in self._models

    def is_awake(self, name: str) -> bool:
        """Whether it starts on demand, and is asked for."""
        model = self._models.get(name)
        return model is not None and model.is_awake

    def asleep(self) -> list[str]:
        return [name for name, model in self._models.items() if not model.is_awake]

    def asked_at(self, name: str) -> float:
        """Since when somebody waits for it; what starts at boot is waited for from the start."""
        model = self._models.get(name)
        return model.asked_at if model is not None else float("-inf")

    def wake(self, name: str) -> bool:
        """A request asks for it: whether that is news."""
        model = self._models.get(name)
        if model is None or model.is_awake:
            return False
        model.is_awake, model.asked_at = True, self._clock()
        model.is_busy, model.failed_at = True, None  # whoever asked waits
        model.has_failed = False
        return True

    def sleep(self, name: str) -> None:
        """Has a model unloaded, once it has finished what it has."""
        model = self._models[name]
        model.is_awake = model.is_busy = False

    def note_gone(self, name: str) -> None:
        """Nothing of it is loaded any more."""
        model = self._models.get(name)
        if model is not None:
            model.ready_at = None

    def note_use(self, told: Mapping[str, ModelUse]) -> None:
        """How each was used when the control process looked."""
        now = self._clock()
        for name, use in told.items():
            model = self._models.get(name)
            if model is not None:
                model.is_busy, model.is_kept = use["busy"], use["kept"]
                model.used_at = max(model.used_at, now - use["idle_s"])

    def note_ready(self, name: str) -> None:
        """Notes that a model has been loaded."""
        model = self._models.get(name)
        if model is not None:
            model.ready_at = model.used_at = self._clock()
            model.failed_at, model.has_failed = None, False

    def note_failed(self, name: str, could_before: bool) -> None:
        """Notes that a model could not be loaded; `could_before`: it once could."""
        model = self._models.get(name)
        if model is None:
            return
        model.has_failed = True
        if model.failed_at is None and could_before:
            model.failed_at = self._clock()

    def may_try_again(self, name: str) -> bool:
        """Whether what could be loaded before, and not a while ago, may be asked for again."""
        model = self._models.get(name)
        failed_at = model.failed_at if model is not None else None
        return failed_at is not None and self._clock() - failed_at >= START_AGAIN_S

    def idle(self) -> list[str]:
        """The models that nobody has asked for long."""
        now = self._clock()
        return [
            name
            for name, model in self._models.items()
            if model.is_awake and model.ready_at is not None and model.idle_s is not None
            and not model.is_busy and not model.is_kept
            and now - max(model.used_at, model.ready_at) >= model.idle_s
        ]  # fmt: skip

    def guests(self, load_s: Mapping[str, float]) -> list[Guest]:
        """The models that may be asked to go for another one; `load_s` says how long each loads."""
        return [
            Guest(
                name, max(model.used_at, model.ready_at), model.ready_at, model.is_busy,
                turn_s(load_s.get(name, 0.0)),
            )
            for name, model in self._models.items()
            if model.is_awake and model.ready_at is not None and not model.is_kept
        ]  # fmt: skip
