"""For all tests: nothing that they start outlives them, and Ctrl-C reaches what they start."""

import signal

pytest_plugins = ["tests.harness.orphans"]

# A shell lets what it starts in the background ignore SIGINT, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
