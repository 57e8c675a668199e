"""How are results told: a page with tables and a picture, from one run's figures."""

import platform
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import psutil

from benchmarks.goals import table
from benchmarks.wrk import KINDS

Results = dict[str, Any]
DOCS = Path(__file__).resolve().parents[1] / "docs"
REMARKS = Path(__file__).with_name("remarks.md")  # written by hand, kept from run to run
INK, OURS, THEIRS = "#24292f", "#2563eb", "#94a3b8"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _requests(r: Results) -> str:
    text = (
        "## Requests\n\nSmall JSON POST, 9:1 split over two upstreams, 32 keep-alive connections; "
        "then one connection; then at half of Headgate's own rate with random think times. User "
        "and system: processor time of all processes of a proxy, for a request."
    )
    return "\n\n".join([text, *(f"{_LOADS[kind]}\n\n{_proxies(r[kind])}" for kind in KINDS)])


_LOADS = {
    "different": "### Different heads\n\nAs clients send them: every request has a query, a trace "
    "context, a length and one of 10,000 users of its own, every answer a fresh ORCA load report.",
    "equal": "### Equal heads\n\nOne request, repeated to the byte, and one answer.",
}


def _proxies(r: Results) -> str:
    direct = r["direct"]["one"]
    rows = [
        (
            name, f"{one['rate']:,.0f}", _us(one, "user_us"), _us(one, "system_us"),
            f"{one['p50']:.2f}", f"{one['p99']:.2f}",
            f"{one['one']:.3f}", f"{one['one'] - direct:+.3f}", f"{one['half_p99']:.2f}",
            str(one["errors"]),
        )
        for name, one in r.items()
    ]  # fmt: skip
    head = (
        "", "requests/s", "user µs", "system µs", "p50 ms", "p99 ms", "p50 at 1, ms", "added, ms",
        "p99 at half, ms", "errors",
    )  # fmt: skip
    return _rows(head, rows)


def _us(one: Results, kind: str) -> str:
    return f"{one[kind]:.1f}" if kind in one else "–"


def _bodies(r: Results) -> str:
    rows = [
        (
            name, f"{one['down']:,.0f}", f"{one['up']:,.0f}", f"{one['memory'] / 2**20:.1f}",
            f"{one['slow_readers'] / 2**20:.1f}",
        )
        for name, one in r.items()
    ]  # fmt: skip
    head = ("", "down MiB/s", "up MiB/s", "memory +MiB", "50 slow readers +MiB")
    return "## Big bodies\n\n1 GiB each way; nginx without buffering.\n\n" + _rows(head, rows)


def _events(r: Results) -> str:
    text = "## Server-sent events\n\n1,000 streams × 10 events/s; from written to received.\n\n"
    return text + _streams(r, "event")


def _tokens(r: Results) -> str:
    return (
        "## Tokens of a language model\n\n200 streams × 200 tokens/s as server-sent events, each "
        "in a chunk of 200 bytes: four engines, and a step of 5 ms gives every stream of an "
        "engine its token at the same time. From written to received; processor time of all "
        "processes of a proxy, for a token.\n\n" + _streams(r, "token")
    )


def _streams(r: Results, one_is: str) -> str:
    rows = [
        (
            name,
            f"{one['first']:.2f}",
            f"{one['p50']:.2f}",
            f"{one['p99']:.2f}",
            f"{one['rate']:,.0f}",
            _us(one, "user_us"),
            _us(one, "system_us"),
        )
        for name, one in r.items()
    ]
    head = (
        "", f"first {one_is} ms", "p50 ms", "p99 ms", f"{one_is}s/s", "user µs", "system µs",
    )  # fmt: skip
    return _rows(head, rows)


def _uneven(r: Results) -> str:
    figures = ("p50_70", "p99_70", "p50_90", "p99_90")
    rows = [(name, *(f"{one[figure]:.0f}" for figure in figures)) for name, one in r.items()]
    head = ("", "p50 at 70 %, ms", "p99, ms", "p50 at 90 %, ms", "p99, ms")
    return (
        "## Uneven instances\n\nFour instances, two slots of 20 ms (lognormal), one five times "
        "slower; open loop, Poisson; a request without an answer counts as 5 s.\n\n"
        + _rows(head, rows)
    )


def _mixed(r: Results) -> str:
    rows = [
        (
            name,
            f"{one['p99_told']:.0f}",
            f"{100 * one['refused_told']:.2f} %",
            f"{one['p99_silent']:.0f}",
            f"{100 * one['refused_silent']:.2f} %",
        )
        for name, one in r.items()
    ]
    head = ("", "p99, ms", "refused", "p99 without reports, ms", "refused")
    return (
        "## Uneven instances, mixed lengths\n\nThe same at 70 %; a tenth of the requests takes "
        "5.5 times as long as the mean and the others half; with instances that report their load "
        "and with such that do not.\n\n" + _rows(head, rows)
    )


def _overload(r: Results) -> str:
    rows = [
        (
            name,
            f"{100 * one['goodput']:.1f} %",
            f"{100 * one['goodput_nominal']:.1f} %",
            f"{one['refusal_p99']:.1f}",
        )
        for name, one in r.items()
    ]
    head = ("", "goodput, of capacity", "of 320/s", "refusals p99, ms")
    return (
        "## Overload\n\nThe same instances at three times their capacity; answers within "
        "500 ms count, of what the instances' slots could do as long as each answer really held "
        "one; beside it, of what they should do if timers were exact.\n\n" + _rows(head, rows)
    )


def _costs(results: Results) -> str:
    lines = []
    for one in results.get("routes", {}).values():
        for kind in KINDS:
            r = one[kind]
            lines.append(
                f"* {one['what']}, {kind} heads: {r['many']:,.0f} requests/s and "
                f"{r['many_us']:.0f} µs against {r['few']:,.0f} and {r['few_us']:.0f} µs with one "
                f"route ({100 * r['loss']:.1f} % lost)"
            )
    if "idle" in results:
        r = results["idle"]
        lost = " and ".join(f"{100 * r['loss'][kind]:.1f} % with {kind} heads" for kind in KINDS)
        lines.append(
            f"* {r['connections']:,} idle connections: {r['bytes_each'] / 1024:.1f} KiB each; of "
            f"the rate was lost: {lost}"
        )
        wakeups = ", ".join(f"{value:.1f}" for value in r["wakeups"].values())
        lines.append(f"* Wake-ups a second of each process with nothing to do: {wakeups}")
    if "resting" in results:
        r = results["resting"]
        above = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in r["above"].items())
        lines.append(
            f"* An instance that nobody asks: {100 * r['cores']:.2f} % of a core, "
            f"{r['wakeups']:.1f} wake-ups a second, above a bare process with torch: {above}"
        )
    return "## What standing costs\n\n" + "\n".join(lines)


def _instance(r: Results) -> str:
    rows = [
        (
            name, f"{one['rate']:,.0f}", f"{one['p50']:.2f}", f"{one['p99']:.2f}",
            f"{one['lone']:.2f}",
        )
        for name, one in r["trivial"].items()
    ]  # fmt: skip
    head = ("", "requests/s", "p50 ms", "p99 ms", "lone request, 5 ms window, p50 ms")
    text = (
        '## Instances\n\n`{"input": 4.0}` → its square, 32 connections, batches of up to 32 '
        "where the server has them (FastAPI has none), both cores shared with wrk.\n\n"
        + _rows(head, rows)
    )
    rates = (("heavy", "a network of ResNet-18's shape, batches of up to 32, 64 connections"),
             ("digits", "the digit network of the examples, in the same way"),
             ("streamed", "items of one stream of 10,000"))  # fmt: skip
    lines = [
        f"* Per second, {what}: "
        + ", ".join(f"{name} {one['rate']:,.0f}{_range(one)}" for name, one in r[kind].items())
        for kind, what in rates
        if kind in r
    ]
    if "large" in r:
        took = ", ".join(
            f"{name} {one['ms']:.1f} ms{_range(one, 1)}" for name, one in r["large"].items()
        )
        lines.append(f"* 10 MiB in and out: {took}")
    return text + "\n\n" + "\n".join(lines)


def _range(one: Results, digits: int = 0) -> str:
    """The lowest and the highest of what was measured several times."""
    if "low" not in one or one["low"] == one["high"]:
        return ""
    return f" ({one['low']:,.{digits}f} to {one['high']:,.{digits}f})"


_SECTIONS = {
    "requests": _requests,
    "bodies": _bodies,
    "events": _events,
    "tokens": _tokens,
    "uneven": _uneven,
    "mixed": _mixed,
    "overload": _overload,
    "instance": _instance,
}


def page(results: Results, left_out: Sequence[str], busy: bool) -> str:
    """The whole page as Markdown."""
    memory = psutil.virtual_memory().total / 2**30
    parts = [
        "# Benchmarks",
        "Made by `make bench`; every section is from one run, rounds alternate between the "
        "contenders, and medians are shown. **Compare within a section only**: the same machine "
        "gives other absolute figures an hour later. One core is the proxy's, the other is "
        "shared by the load and the upstreams. Peers run as their manuals recommend for speed, "
        "without an access log; Headgate runs with its defaults and an access log in a file. "
        "Where two loads are measured, goals and picture are of the harder one: heads that differ.",
        f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}.",
        "\n".join(f"* {name}: {how}" for name, how in results.get("runs", {}).items()),
    ]
    if busy:
        parts.append(
            "> **This run was not on a quiet machine**: other work took part of both cores. "
            "Read the ratios with care and the latencies not at all."
        )
    if left_out:
        parts.append("\n".join(f"* {line}" for line in left_out))
    parts.append("## Goals\n\n" + _rows(("measure", "goal", "here", ""), table(results)))
    if "requests" in results:
        parts.append("![Requests per second](images/benchmarks.svg)")
    parts += [_SECTIONS[name](results[name]) for name in _SECTIONS if name in results]
    if results.keys() & {"routes", "idle", "resting"}:
        parts.append(_costs(results))
    parts.append(REMARKS.read_text().strip())
    return "\n\n".join(parts) + "\n"


def bars(values: dict[str, float], title: str) -> str:
    """A bar per value as SVG; Headgate's stands out."""
    width, left, row = 720, 150, 34
    top = max(values.values(), default=1) or 1
    height = 50 + row * len(values)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values.items()):
        y = 46 + row * number
        long = (width - left - 110) * value / top
        colour = OURS if name == "Headgate" else THEIRS
        out += [
            f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="24" rx="3" fill="{colour}"/>',
            f'<text x="{left + long + 8:.1f}" y="{y + 17}">{value:,.0f}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"


def write(results: Results, left_out: Sequence[str], busy: bool) -> Path:
    """Write docs/benchmarks.md and its picture; returns the page's path."""
    (DOCS / "images").mkdir(parents=True, exist_ok=True)
    target = DOCS / "benchmarks.md"
    target.write_text(page(results, left_out, busy))
    if "requests" in results:
        harder = results["requests"]["different"]
        rates = {name: one["rate"] for name, one in harder.items() if name != "direct"}
        ordered = dict(sorted(rates.items(), key=lambda item: -item[1]))
        title = "Requests per second and core: small JSON POST, 9:1 split, different heads"
        (DOCS / "images" / "benchmarks.svg").write_text(bars(ordered, title))
    return target
