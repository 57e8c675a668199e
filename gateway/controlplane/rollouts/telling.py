"""What is told of a rollout: the answer of `GET …/rollout`, and why no step of it is passed.

Values in, words out: nothing here changes a rollout or decides about it.
"""

from typing import Any

from gateway.controlplane.rollouts.progress import ACTED, Progress, Waits
from gateway.controlplane.rollouts.tallies import MIN_TIMES
from gateway.core.judging import evidence
from gateway.core.rollout import Guard, Judged, sentence

Json = Any


def shown(it: Progress, driver: str = "") -> dict[str, Json]:
    """What `GET …/rollout` answers, but for the plan. `driver` is the gateway that drives it."""
    return {
        "route": it.route,
        "to": it.plan.to,
        "state": it.state,
        "step": it.step + 1,
        "share": it.share,
        "started": it.started,
        "why": it.plan.why,
        "revision": it.revision,
        "driver": driver if it.is_live else "",
        "held_s": round(it.held_s, 1),
        "requests": it.requests,
        "refused": it.refused,
        "held": held(it),
        "pending": it.move.state if it.move and it.stuck else "",
        "guards": {guard.name: _guard(it, guard, found) for guard, found in it.judge()},
        "history": it.history,
    }


def held(it: Progress) -> str:
    """Why no step of it is passed now, whatever else it has; empty where one may be."""
    if it.move is not None and it.stuck:
        state = it.move.state.replace("_", " ")
        to = f"go on to step {it.move.step + 1}" if state == "running" else f"become {state}"
        return f"cannot {to}: {it.stuck}"
    if it.waits == "company":
        others = " or ".join(sorted(it.others))
        return f"no healthy instance of {others}, nothing to compare {it.plan.to} with"
    if it.waits == "answers":
        (refused, asked), (of_others, asked_others) = it.asked
        beside = f", the others {of_others:,} of {asked_others:,}" if asked_others else ""
        said = f"{it.plan.to} refuses {refused:,} of {asked:,} requests of this step as busy"
        return said + beside
    if it.waits == "data":
        return "; ".join(f"{guard.name}: {_lacks(it, guard)}" for guard in it.blind(it.judge()))
    return ""


def waits(it: Progress, before: Waits) -> str:
    """That no step of it is passed from now on, and why; or that it goes on, and waits no more for
    what it waited for `before`."""
    if it.waits:
        return f"held: {held(it)}"
    if before == "company":
        return f"goes on: {' or '.join(sorted(it.others))} has a healthy instance again"
    if before == "answers":
        return f"goes on: {it.plan.to} refuses hardly more than the others by now"
    return "goes on: every guard has something to judge"


def _guard(it: Progress, guard: Guard, found: Judged) -> dict[str, Json]:
    return {
        "verdict": found.verdict,
        "evidence": float(f"{evidence(found.log_evidence):.4g}"),
        "threshold": float(f"{guard.threshold:.6g}"),
        "canary": {"events": found.canary[0], "requests": found.canary[1]},
        "stable": {"events": found.stable[0], "requests": found.stable[1]},
        "sentence": _failed(it, guard)
        or sentence(guard, found, it.judged_at, lacks=_lacks(it, guard)),
    }


def _failed(it: Progress, guard: Guard) -> str:
    """What the guard found as it failed; that something came of it, once it has."""
    found = it.failed.get(guard.name, "")
    return found.removesuffix(f", {ACTED[guard.on_fail]}") if it.stuck else found


def _lacks(it: Progress, guard: Guard) -> str:
    """What there is not yet, where a guard has nothing to judge."""
    if guard.name == "agreement":
        return "no pair of answers was compared yet"
    if not it.tallies.ended:
        refused = it.tallies.refused(alone=True)
        none = "no requests of the canary yet"
        return f"{none}, {refused:,} refused as busy" if refused else none
    if guard.name == "latency" and not it.tallies.slow_s:
        return f"no threshold yet, which takes {MIN_TIMES} answers of the others"
    if guard.name == "predictions":
        return f"no answer of the canary with {guard.field} yet"
    return "no answer of the canary was timed yet"
