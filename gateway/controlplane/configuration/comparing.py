"""What may people write about how a mirror's answers are compared?"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import Spec, checked, fault, only, optional
from gateway.core.comparing import WORDS, rule_of

MAX_FIELDS = 100
MAX_SAMPLES = 50
POINTER = r"^((/([^/~\x00-\x1f]|~[01]){0,64}){1,16})?$"
_is_pointer = re.compile(POINTER).fullmatch


def _pointer(text: Any) -> str:
    if not isinstance(text, str) or not _is_pointer(text):
        raise fault("pointer", 'must be a JSON pointer such as /digit, or "" for all of it')
    return text


_NUMBER = {"type": "number", "minimum": 0}
_SHOWN_RULE = {
    "anyOf": [
        {"enum": list(WORDS)},
        only(
            "close",
            {
                "type": "object",
                "properties": {"rtol": _NUMBER, "atol": _NUMBER},
                "minProperties": 1,
                "additionalProperties": False,
            },
        ),
        only("top_k", {"type": "integer", "minimum": 1}),
    ]
}
Pointer = Annotated[str, BeforeValidator(_pointer)]
Rule = Annotated[Any, checked(rule_of, "rule"), Shown(_SHOWN_RULE)]


class CompareSpec(Spec):
    """How answers of a mirror are compared with those that clients get."""

    fields: Annotated[
        dict[Pointer, Rule],
        Shown(
            {
                "type": "object",
                "propertyNames": {"pattern": POINTER},
                "additionalProperties": _SHOWN_RULE,
                "maxProperties": MAX_FIELDS,
            }
        ),
    ] = optional(
        "JSON pointer → `exact`, `set`, `ignore`, `{close: {rtol, atol}}` or"
        " `{top_k: N}`, for all below it; only what is named is compared. Left out, or all"
        " `ignore`: everything, numbers as near as the stable version is to itself.",
        max_length=MAX_FIELDS,
    )
    noise: bool = optional(
        "Whether the stable version is asked a second time, to know how much it"
        " differs from itself (true where a tolerance is learnt, else false)."
    )
    samples: int = optional(
        f"How many of the last differing pairs are kept for a look ({MAX_SAMPLES}); 0: none.",
        ge=0,
        le=MAX_SAMPLES,
    )
