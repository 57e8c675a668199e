"""`python -m gateway`: the command line, and the ways in for the processes it starts.

Names that begin with an underscore are how the supervisor and the launcher run their
children; nobody else calls them and they may change at any time.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence

from gateway.processes.signals import ANEW, be_quiet, end_at_ctrl_c

end_at_ctrl_c()  # before anything else is loaded

from gateway.processes.lifeline import exec_tied, tie  # noqa: E402


def main() -> int:
    """Runs what the first argument names; returns the exit code."""
    name, arguments = sys.argv[1:2], sys.argv[2:]
    if name == ["_tied"]:
        exec_tied(arguments)
    if name in (["_control"], ["_worker"], ["_compare"]):
        be_quiet(*ANEW, signal.SIGHUP)
        tie()
        gc.disable()  # until all is loaded: it stays, and to look through it is a third of the time
        from gateway import app

        runs = {"_control": app.run_control, "_worker": app.run_worker, "_compare": app.run_compare}
        return guarded(runs[name[0]], arguments)
    if name == ["_ray"]:
        be_quiet(*ANEW, signal.SIGHUP)
        tie()
        from gateway.up.on_ray.helper import run

        return guarded(run, arguments)
    from gateway.cli import main as command_line

    return command_line()


def guarded(process: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The exit code of `process`; a fault of ours is one line, as it is for the commands."""
    try:
        return process(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("HEADGATE_DEBUG"):
            raise
        fault = f"a fault in headgate itself: {type(error).__name__}: {error}".replace("\n", " ")
        print(f"headgate: {fault} (HEADGATE_DEBUG=1 shows where)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
