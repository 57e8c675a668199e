"""How does an instance's health change? `docs/health.md`, drawn from the tables in the code."""

from gateway.core.health import (
    ACCEPTED,
    AT_ONCE,
    AVOID_S,
    AWAY,
    GONE,
    ILL,
    LIFE,
    PROBE,
    PROBES,
    WEIGHTS,
)

WORDS = {
    "starting": "never ready since it was added, or since its process was gone; gets nothing",
    "up": "ready",
    "failing": "its probes fail, or it cannot be trusted; used only when no instance is up, and"
    " once as many requests in a row as would eject it have failed too, only for what its route has"
    " nobody else for, and where probes are answered, for one request after `eject.base`, and then"
    " ever later up to `eject.max`",
    "down": "refuses connections, or takes none for long; gets nothing",
}

MET_BY_PROBES = {
    "ready": "a status of 2xx",
    "unready": "another status",
    "late": "a connection, and no answer within `health.timeout`",
    "malformed": "what is no HTTP, or the end of the connection",
    "probe_refused": "nobody who listens",
    "probe_unreachable": "no connection within `health.timeout`, or no way there",
    "probe_untrusted": "somebody with whom no TLS can be spoken: see its `cause` in the status",
}

MET_BY_REQUESTS = {
    "refused": "nobody listens",
    "unreachable": "no connection within `timeouts.connect`, or no way there",
    "untrusted": "somebody with whom no TLS can be spoken (expired, another host, no known CA)",
    "unresolved": "its name has no address",
    "turned_away": "503 and the end of the connection, of an instance that loads or leaves",
    "reset": "the connection ended before the answer did",
    "timeout": "no answer within `timeouts.response`, no more of it within `timeouts.idle`, or a "
    "route's `deadline` of which upload, queue and other attempts left half or more",
    "broken_head": "an answer that is no HTTP",
    "gateway_error": "502, 503 without `Retry-After`, or 504",
    "error": "any other status from 500 on",
    "success": "a whole answer with a status below 500",
    "answered": "the head of any answer, the first one only",
    "alive": "a part of an answer that is under way, while probes get no connection",
}

_INTRO = """# Health

<!-- Rendered by docs/health_page.py: do not edit. -->

What the gateway knows of an instance is one value that changes by signals. Probes, of the control
process, and requests, of any worker, make the signals; each one that is news is told to
all others with its time, and everybody replays them in the order of these times (decisions
[32](decisions/0032-why-no-connection.md) and [34](decisions/0034-evidence-is-replayed.md)).

## What probes say

At most 2,000 probes begin in a second; of a table that asks for more, each comes later. What
requests meet tells as fast as ever.

"""

_PROBES = """
`rise` good probes in a row or `fall` bad ones lead to another word:

"""

_AFTER_PROBES = """
Empty: nothing changes, and the row ends. At once: a single one does. After a `refused`,
`turned_away` or `probe_refused` since it was last ready, the first {accepted}
means *starting*: it is a new process that loads its model. While it is *failing*, any of
{life} ends the row; when it is *down* and nobody was refused, it makes
it *failing*. Who becomes *up* again is not ejected any more, and is given a growing share for ten
seconds.

## What requests say

"""

_END = """
Ejected: after `eject.failures` signals of ill health in a row it is out for `eject.base` × the
number of times in a row, at most `eject.max`; at most half of a backend's instances, and never the
last one that is up. Then it is on trial: one more failure ejects it for longer, a success ends it.
Preferred: until then it gets only what no other instance can take, for {avoid_s:g} s, or for
`eject.base` after `eject.failures` failures in a row of any kind. A success ends that too. What the
gateway itself lacks, descriptors, ports or memory, is no signal.
"""


def health_page() -> str:
    """`docs/health.md`, whole."""
    lines = [f"- *{word}*: {meaning}" for word, meaning in WORDS.items()]
    page = _INTRO + "\n".join(lines) + "\n" + _PROBES + _transitions()
    page += _AFTER_PROBES.format(accepted=_either(ACCEPTED), life=_either(LIFE))
    return page + _signals() + _END.format(avoid_s=AVOID_S)


def _either(names: frozenset[str]) -> str:
    *first, last = [f"`{name}`" for name in sorted(names)]
    return f"{', '.join(first)} or {last}"


def _transitions() -> str:
    """The table of words: a row per signal, a column per word."""
    assert MET_BY_PROBES.keys() == PROBES
    rows = [
        "| a probe met | | " + " | ".join(f"*{word}*" for word in WORDS) + " |",
        "|---|---|" + "---|" * len(WORDS),
    ]
    for signal, met in MET_BY_PROBES.items():
        cells = [_target(word, signal) for word in WORDS]
        rows.append(f"| `{signal}` | {met} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _target(word: str, signal: str) -> str:
    for (source, name), target in PROBE.items():
        if (source, name) == (word, signal):
            return f"*{target}*" + (" at once" if (word, signal) in AT_ONCE else "")
    return ""


def _signals() -> str:
    """What each signal of requests means for the instance."""
    rows = [
        "| a request met | | ejects | others are preferred | may be a new process |",
        "|---|---|---|---|---|",
    ]
    for signal, met in MET_BY_REQUESTS.items():
        weight = WEIGHTS.get(signal, 1)
        ejects = ("yes" if weight == 1 else f"counts {weight} times") if signal in ILL else ""
        avoided = "at once" if signal in AWAY else "in a row" if _fails(signal) else ""
        gone = "yes" if signal in GONE else ""
        rows.append(f"| `{signal}` | {met} | {ejects} | {avoided} | {gone} |")
    return "\n".join(rows) + "\n"


def _fails(signal: str) -> bool:
    return signal not in LIFE
