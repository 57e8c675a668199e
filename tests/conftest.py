"""For all tests: nothing that they start outlives them, Ctrl-C reaches what they start, and no
pause of this process is taken for one of what it tests."""

import gc
import signal

pytest_plugins = ["tests.harness.orphans"]

# A shell lets what it starts in the background ignore SIGINT, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # Half a million objects are there to stay: to walk through them takes a third of a second,
    # in which the clients of a test stand still.
    gc.collect()
    gc.freeze()
