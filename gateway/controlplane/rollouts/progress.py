"""How far has one rollout come?

All that is known of it: its plan, its state and step, the weights of its start, what was counted,
and what it is about to do. It changes by signals of `core.rollout` alone; who carries a change out
and keeps it is `controller`, and what is told of it is worded by `telling`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gateway.controlplane.rollouts import plans
from gateway.controlplane.rollouts.agreeing import Agreement
from gateway.controlplane.rollouts.tallies import Tallies
from gateway.core.judging import log_evidence, log_evidence_of_categories
from gateway.core.rollout import (
    AHEAD,
    BACK,
    LIVE,
    Guard,
    Judged,
    Plan,
    Signal,
    State,
    after,
    judged,
    refuses_more,
    sentence,
    weights_at,
)
from gateway.wire.messages import Judging

Json = Any
MAX_TOLD = 500
ACTED = {"rollback": "rolled back", "hold": "held", "warn": "warned"}


Waits = Literal["", "company", "answers", "data"]
"""For what no step is passed: another version that can serve, a canary that refuses less, or
something that each guard can judge."""
BLIND_S = 30.0  # a step lasts longer than it must: by then each guard should know something


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be done: the state and step that come of it, and the split to be in force then;
    `lost`: the one that is there and nobody's to edit any more."""

    state: State
    step: int
    why: str
    weights: Mapping[str, int] | None = None
    lost: Mapping[str, int] | None = None

    def as_json(self) -> Json:
        named = {"state": self.state, "step": self.step, "why": self.why, "weights": self.weights}
        return named if self.lost is None else {**named, "lost": self.lost}


@dataclass(slots=True)
class Progress:
    """One rollout. `step` counts from 0; `entered` are the canary's requests before this step, as
    it counts them, `entered_refused` those that it had refused as busy by then and `entered_beside`
    the same two of the others, (refused, judged); `held_s` the seconds that it was held, none of
    them before the moment `held_from` of the clock;
    `beside_at` the moment at which another version than the canary could serve last, None where
    that is not known, and `waits` what it was said to wait for at this step, whatever else it has;
    `lost` the split that it ended with, where that is somebody else's;
    `move` what was decided and is not done yet, and `stuck` why it could not be;
    `failed` guard → the sentence of the moment; `accepted` failed guards that an operator
    overruled."""

    id: str
    route: str
    said: Mapping[str, Json]
    plan: Plan
    start: Mapping[str, int]
    started: str
    state: State = "running"
    step: int = 0
    revision: int = 0
    held_s: float = 0.0
    held_from: float = 0.0
    beside_at: float | None = None
    waits: Waits = ""
    entered: int = 0
    entered_refused: int = 0
    entered_beside: tuple[int, int] = (0, 0)
    warming: bool = True
    lost: Mapping[str, int] | None = None
    move: Move | None = None
    stuck: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    tallies: Tallies = field(default_factory=Tallies)
    agreement: Agreement = field(default_factory=Agreement)
    history: list[dict[str, Json]] = field(default_factory=list)

    @property
    def is_live(self) -> bool:
        """Whether the split is the rollout's."""
        return self.state in LIVE

    @property
    def weights(self) -> Mapping[str, int]:
        """The split that is in force by this rollout, or was as it lost it."""
        if self.lost is not None:
            return self.lost
        if self.state in BACK or not self.history:
            return self.start
        return self.weights_of(self.step, self.state)

    def weights_of(self, step: int, state: State) -> Mapping[str, int]:
        """The split of a step, or of the end of all."""
        found = weights_at(self.start, self.plan.to, self.plan.steps[step].percent)
        if state == "done" and self.plan.on_done == "remove_old":
            # One that had nothing at the start is no old one: another candidate, or a reserve.
            return {
                name: weight for name, weight in found.items() if weight or not self.start[name]
            }
        return found

    @property
    def share(self) -> float | int:
        """The canary's part of the route, in percent, as JSON shows it."""
        weights = self.weights
        percent = 100 * weights.get(self.plan.to, 0) / (sum(weights.values()) or 1)
        return int(percent) if percent == int(percent) else round(percent, 4)

    @property
    def judged_at(self) -> float | int:
        """The canary's percent of the route while its requests were judged: its share, or that of
        the step from which it went back."""
        return (
            self.share if self.state not in BACK else plans.percent_of(self.plan.steps[self.step])
        )

    @property
    def requests(self) -> int:
        """The canary's requests that were judged at this step: where others have a share, those
        that were decided while one of them could serve."""
        return self._judged(self.step) - self.entered

    @property
    def refused(self) -> int:
        """The canary's requests that it refused as busy at this step, none of which is judged."""
        return self.tallies.refused(alone=not self.has_others) - self.entered_refused

    @property
    def asked(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of how many requests at this step the canary refused how many as busy, and the others:
        each (refused, requests)."""
        refused, judged = self.tallies.beside
        refused, judged = refused - self.entered_beside[0], judged - self.entered_beside[1]
        return (self.refused, self.refused + self.requests), (refused, refused + judged)

    @property
    def is_refusing(self) -> bool:
        """Whether the canary refuses more than the others at this step."""
        return refuses_more(*self.asked)

    @property
    def is_kept_by_refusals(self) -> bool:
        """Whether nothing but that keeps this step."""
        step, ((_, asked), _) = self.plan.steps[self.step], self.asked
        return self.held_s >= step.hold_s and asked >= step.min_requests and self.is_refusing

    @property
    def others(self) -> frozenset[str]:
        """The backends beside the canary that had a weight at the start."""
        return frozenset(name for name, weight in self.start.items() if weight) - {self.plan.to}

    @property
    def has_others(self) -> bool:
        """Whether others than the canary have a share at this step."""
        return self.plan.steps[self.step].percent < 100

    def _judged(self, step: int) -> int:
        is_alone = self.plan.steps[step].percent == 100
        return self.tallies.ended if is_alone else self.tallies.compared

    def moved(self, signal: Signal, why: str) -> Move:
        """What `signal` leads to; NotNow where it leads nowhere."""
        is_last = self.step + 1 == len(self.plan.steps)
        state = after(self.state, signal)
        if signal in AHEAD and is_last:
            state = after(self.state, "finish")
        if state in BACK:
            return Move(state, self.step, why, self.start)
        if state == "done":
            return Move(state, self.step, why, self.weights_of(self.step, state))
        if signal in AHEAD:
            return Move(state, self.step + 1, why, self.weights_of(self.step + 1, state))
        return Move(state, self.step, why)

    def if_done(self, move: Move) -> "Progress":
        """What it would be once `move` is in force."""
        return replace(self, state=move.state, step=move.step)

    def done(self, move: Move, time: str, revision: int | None) -> None:
        """`move` is in force."""
        if move.step != self.step:
            self.held_s, self.entered = 0.0, self._judged(move.step)
            is_alone = self.plan.steps[move.step].percent == 100
            self.entered_refused = self.tallies.refused(alone=is_alone)
            self.entered_beside = self.tallies.beside
        self.state, self.step, self.move, self.waits = move.state, move.step, None, ""
        self.lost, self.stuck = move.lost, ""
        if revision is not None:
            self.revision = revision
        self.note(time, move.why)

    def note(self, time: str, why: str) -> None:
        """Something is to be known of it, at that time."""
        told = {"time": time, "state": self.state, "step": self.step + 1, "why": why}
        self.history = [*self.history[-MAX_TOLD:], told]

    def is_blind(self, guards: Iterable[tuple[Guard, Judged]]) -> bool:
        """Whether nothing but guards that have nothing to judge keep this step, for a while."""
        step = self.plan.steps[self.step]
        is_due = self.held_s >= step.hold_s + BLIND_S and self.requests >= step.min_requests
        return is_due and bool(self.blind(guards))

    def blind(self, guards: Iterable[tuple[Guard, Judged]]) -> list[Guard]:
        """The guards that have nothing to judge and let no step pass."""
        return [
            guard
            for guard, found in guards
            if found.verdict == "no_data"
            and guard.on_fail != "warn"
            and guard.name not in self.accepted
        ]

    def judge(self) -> list[tuple[Guard, Judged]]:
        """What each guard makes of what was counted."""
        found = []
        for guard in self.plan.guards:
            if guard.name == "predictions":
                found.append((guard, self._predictions(guard)))
                continue
            if guard.name == "agreement":
                has_failed = guard.name in self.failed
                found.append((guard, self.agreement.judge(guard, has_failed)))
                continue
            canary, stable = self.tallies.requests(guard.name)
            events = self.tallies.events(guard.name)
            sums = [sum(each[arm] for each in events.values()) for arm in (0, 1)]
            has_failed = guard.name in self.failed
            counts = (sums[0], canary), (sums[1], stable)
            found.append((guard, judged(guard, log_evidence(events), *counts, has_failed)))
        return found

    def _predictions(self, guard: Guard) -> Judged:
        """Whether both arms answer alike; its events are those of the answer that differs most."""
        answers = self.tallies.answers()
        log_e = log_evidence_of_categories(list(answers.values()))
        counts = {
            answer: [sum(each[arm] for each in found.events.values()) for arm in (0, 1)]
            for answer, found in answers.items()
        }
        canary, stable = (sum(each[arm] for each in counts.values()) for arm in (0, 1))
        most = max(answers, key=lambda each: answers[each].log_evidence, default="")
        events = counts.get(most, [0, 0])
        has_failed = guard.name in self.failed
        sums = (events[0], canary), (events[1], stable)
        return replace(judged(guard, log_e, *sums, has_failed), what=most)

    def note_failures(self, guards: Iterable[tuple[Guard, Judged]]) -> list[Guard]:
        """The guards that have failed just now; they stay so, with the sentence of now."""
        fresh = []
        for guard, found in guards:
            if found.verdict == "failed" and guard.name not in self.failed:
                acted = ACTED[guard.on_fail]
                self.failed[guard.name] = sentence(guard, found, self.share, acted)
                fresh.append(guard)
        return fresh

    def judging(self) -> Judging:
        """What workers are to do for it."""
        return {
            "id": self.id,
            "to": self.plan.to,
            "slow_s": self.tallies.slow_s,
            "warming": self.warming,
            "field": next((each.field for each in self.plan.guards if each.field), ""),
            "edges": self.tallies.edges,
        }

    # -- as it is kept

    def as_json(self) -> dict[str, Json]:
        """All of it, as it is kept."""
        return {
            "id": self.id,
            "said": self.said,
            "start": self.start,
            "started": self.started,
            "state": self.state,
            "step": self.step,
            "revision": self.revision,
            "held_s": round(self.held_s, 3),
            "entered": self.entered,
            "entered_refused": self.entered_refused,
            "entered_beside": self.entered_beside,
            "warming": self.warming,
            "waits": self.waits,
            "lost": self.lost,
            "move": self.move.as_json() if self.move else None,
            "failed": self.failed,
            "accepted": sorted(self.accepted),
            "tallies": self.tallies.as_json(),
            "agreement": self.agreement.as_json(),
            "history": self.history,
        }

    @classmethod
    def from_json(cls, route: str, kept: Mapping[str, Json]) -> "Progress":
        """What was kept of the rollout of `route`."""
        return cls(
            id=kept["id"],
            route=route,
            said=kept["said"],
            plan=plans.read_plan(kept["said"], kept["start"]),
            start=kept["start"],
            started=kept["started"],
            state=kept["state"],
            step=kept["step"],
            revision=kept["revision"],
            held_s=kept["held_s"],
            entered=kept["entered"],
            warming=kept["warming"],
            entered_refused=kept.get("entered_refused", 0),
            entered_beside=tuple(kept.get("entered_beside", (0, 0))),
            waits=kept["waits"] if isinstance(kept.get("waits"), str) else "",
            lost=kept.get("lost"),
            move=Move(**kept["move"]) if kept["move"] else None,
            failed=dict(kept["failed"]),
            accepted=frozenset(kept["accepted"]),
            tallies=Tallies.from_json(kept["tallies"]),
            agreement=Agreement.from_json(kept.get("agreement") or {}),
            history=list(kept["history"]),
        )
