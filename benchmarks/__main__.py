"""Which benchmarks to run, for how long, and where the results go."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import fleet, gateways, instance, report, resting, streams
from benchmarks.goals import form, table
from benchmarks.saving import Unusable, save, saved

SECTIONS = (
    "requests",
    "routes",
    "idle",
    "bodies",
    "events",
    "tokens",
    "uneven",
    "mixed",
    "overload",
    "instance",
    "resting",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument(
        "--save", type=Path, help="keep the figures as JSON after each section, and add to them"
    )
    parser.add_argument("--dry-run", action="store_true", help="do not write docs/benchmarks.md")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {SECTIONS}")
    try:
        options.saved = saved(options.save)
    except Unusable as unusable:
        parser.error(str(unusable))
    if options.quick:
        options.rounds, options.seconds = 1, 2
    return options


def _plan(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Callable]:
    rounds, seconds = options.rounds, options.seconds
    long = 6 if options.quick else 20
    return {
        "requests": lambda: gateways.requests(rounds, seconds, say),
        "routes": lambda: gateways.many_routes(rounds, seconds, say),
        "idle": lambda: gateways.idle(rounds, seconds),
        "bodies": lambda: streams.big_bodies(rounds, say, (1 << 28) if options.quick else 1 << 30),
        "events": lambda: streams.events(say),
        "tokens": lambda: streams.tokens(rounds, seconds, say),
        "uneven": lambda: fleet.uneven(rounds, long, say),
        "mixed": lambda: fleet.mixed(rounds, long, say),
        "overload": lambda: fleet.overload(rounds, long, say),
        "instance": lambda: instance.everything(rounds, seconds, say),
        "resting": resting.resting,
    }


def _length(options: argparse.Namespace, busy: float) -> str:
    """How a section was measured, for the page."""
    rounds = f"{options.rounds} rounds" if options.rounds > 1 else "1 round"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} of {options.seconds:g} s"
        f"{' (20 s where the loop is open)' if not options.quick else ''}, "
        f"load average before {busy:.1f}"
    )


def main() -> int:
    options = _arguments()
    for tool in ("wrk", "nginx"):
        if shutil.which(tool) is None:
            print(f"{tool} is needed: it makes the load or answers it", file=sys.stderr)
            return 1
    left_out: list[str] = []
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"the machine is not quiet (load average {busy:.1f}): figures will be low and rough")

    def say(text: str) -> None:
        print(text, flush=True)
        if text.startswith("left out") and text not in left_out:
            left_out.append(text)

    results = options.saved
    for name, measure in _plan(options, say).items():
        if options.sections and name not in options.sections:
            continue
        say(f"== {name}")
        results[name] = measure()
        if name == "requests":
            results["form"] = form()
        results.setdefault("runs", {})[name] = _length(options, busy)
        say(json.dumps(results[name], indent=1, ensure_ascii=False))
        if options.save:
            save(options.save, results)
    for measure_name, goal, value, verdict in table(results):
        print(f"{measure_name:58} {goal:>10} {value:>12}  {verdict}")
    if not options.dry_run:
        print(f"written: {report.write(results, left_out, busy > 0.5)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
