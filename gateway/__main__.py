"""`python -m gateway`: the command line, and the ways in for the processes it starts.

Names that begin with an underscore are how the supervisor and the launcher run their
children; nobody else calls them and they may change at any time.
"""

import sys

from gateway.lifeline import exec_tied, tie


def main() -> int:
    """Runs what the first argument names; returns the exit code."""
    name, arguments = sys.argv[1:2], sys.argv[2:]
    if name == ["_tied"]:
        exec_tied(arguments)
    if name == ["_control"]:
        tie()
        from gateway.app import run_control

        return run_control(arguments)
    if name == ["_worker"]:
        tie()
        from gateway.app import run_worker

        return run_worker(arguments)
    from gateway.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
