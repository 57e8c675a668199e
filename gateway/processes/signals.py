"""What do signals mean to the process that a person or a service manager talks to?

SIGTERM and SIGINT stop, SIGHUP reads the file again, SIGUSR1 opens the logs anew, SIGUSR2 means
nothing. What a signal leads to is its receiver's matter.
"""

import os
import signal
from collections.abc import Callable

ANEW = (signal.SIGUSR1, signal.SIGUSR2)


def end_at_ctrl_c() -> None:
    """Until somebody else takes SIGINT, it ends this process without a word. A KeyboardInterrupt
    in the middle of an import would come out of an extension module as a crash on the screen."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def be_quiet(*numbers: signal.Signals) -> None:
    """For a process that has only begun: `numbers` do not end it."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def handle(
    stop: Callable[[signal.Signals], None], reload: Callable[[], None], reopen: Callable[[], None]
) -> None:
    """Calls these for the signals that come from now on, in the running loop."""
    import asyncio  # not before: this module is the first that every command loads

    loop = asyncio.get_running_loop()
    had_terminal = _has_terminal()

    def hang_up() -> None:
        # The terminal that this was started from is gone, and nobody is left to stop it.
        if had_terminal and not _has_terminal():
            stop(signal.SIGTERM)
        else:
            reload()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    # Under nohup SIGHUP is ignored, and shall stay so.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.add_signal_handler(signal.SIGUSR1, reopen)
    be_quiet(signal.SIGUSR2)


def _has_terminal() -> bool:
    """Whether this process has a terminal that it belongs to."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
