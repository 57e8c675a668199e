"""What can become of a rollout? `docs/rollout-states.md`, drawn from the table in the code."""

from gateway.core.rollout import LIVE, SIGNALS, STATES, TABLE

_INTRO = """# The states of a rollout

<!-- Rendered by docs/rollout_states.py: do not edit. -->

Each signal in a state leads to one other, or is refused (409) and changes nothing.

"""


def rollout_states_page() -> str:
    """`docs/rollout-states.md`, whole."""
    lines = ["| state | |", "|---|---|"]
    lines += [f"| `{state}` | {meaning} |" for state, meaning in STATES.items()]
    lines += ["", "| signal | | " + " | ".join(f"`{each}`" for each in STATES if each in LIVE)]
    lines[-1] += " |"
    lines.append("|---|---|" + "---|" * len(LIVE))
    for signal, meaning in SIGNALS.items():
        cells = [
            f"`{TABLE[state, signal]}`" if (state, signal) in TABLE else ""
            for state in STATES
            if state in LIVE
        ]
        lines.append(f"| `{signal}` | {meaning} | {' | '.join(cells)} |")
    lines += ["", "```mermaid", "stateDiagram-v2", "    [*] --> running"]
    edges: dict[tuple[str, str], list[str]] = {}
    for (state, signal), target in TABLE.items():
        edges.setdefault((state, target), []).append(signal)
    lines += [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in edges.items()]
    lines += [f"    {state} --> [*]" for state in STATES if state not in LIVE]
    return _INTRO + "\n".join([*lines, "```"]) + "\n"
