"""How is an error told to a person in one line?

The line says what was refused and, where it can, what to do next. Errors that are nobody's
intention are named as what they are, without a traceback: HEADGATE_DEBUG=1 shows that one.
"""

from gateway.client import Refused, Unreachable


class Refusal(Exception):
    """A command cannot do what was asked; the message is the line."""


def line(error: Exception) -> str:
    """What `error` means to the person who typed the command, on one line."""
    if isinstance(error, Refused):
        return _one_line(_refused(error))
    if isinstance(error, Refusal | Unreachable | ValueError):
        return _one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{where}{error.strerror.lower()}")
    return _one_line(
        f"a fault in headgate itself: {type(error).__name__}: {error}"
        " (HEADGATE_DEBUG=1 shows where)"
    )


def _refused(error: Refused) -> str:
    if error.status == 401:
        return (
            "the admin API wants another token: give --token, HEADGATE_TOKEN, or the"
            " --state-dir of the gateway"
        )
    if error.status == 412:
        return "someone else edited in between: look again, then repeat"
    faults = [f"{fault.get('pointer', '')}: {fault.get('detail', '')}" for fault in error.faults]
    named = [fault for fault in faults if fault.strip(": ") and fault not in error.detail]
    return "; ".join([error.detail.rstrip("."), *named]) if named else error.detail


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
