"""What is said of a request that does not fit its type? The same as FastAPI says, and where.

Values in, values out; who validates is the codec's.
"""

from typing import Any

import orjson

from instance.core.errors import Fault, Problem, writable

MAX_FAULTS = 100  # of one request that are named
MAX_INPUT = 1024  # bytes of a client's own value in an error


def invalid(faults: Any) -> Problem:
    """The problem of a request with these faults, as pydantic has them: `detail` is FastAPI's
    list of them."""
    faults = faults[:MAX_FAULTS]
    return Problem(
        "invalid_request",
        [fastapis(fault) for fault in faults],
        faults=[
            Fault(pointer_of(fault["loc"]), str(fault["type"]), str(fault["msg"]))
            for fault in faults
        ],
    )


def fastapis(fault: Any) -> dict[str, Any]:
    """One fault as FastAPI has it in a 422; what the client sent is repeated where it is short."""
    plain: dict[str, Any] = {
        "type": fault["type"],
        "loc": ["body", *(writable(at) if isinstance(at, str) else at for at in fault["loc"])],
        "msg": writable(fault["msg"]),
    }
    for name in ("input", "ctx"):
        if name in fault:
            try:
                text = orjson.dumps(fault[name], default=str)
            except TypeError:
                continue
            if len(text) <= MAX_INPUT:
                plain[name] = orjson.loads(text)
    return plain


def pointer_of(location: Any) -> str:
    """The JSON pointer of pydantic's location."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)
