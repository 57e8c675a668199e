"""What may people write about how much clients may ask: of a route, or by a key?

Part of `schemas`; what a rate means is `gateway.core.rate_limit`.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import Spec, fault, optional
from gateway.core.entries import MAX_COUNT
from gateway.core.rate_limit import RATE


def _rate(text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch(RATE, text):
        raise fault("rate", f"{text!r} is no rate; write it like 100/s or 30/m")
    return text


Rate = Annotated[str, BeforeValidator(_rate), Shown({"type": "string", "pattern": RATE})]


class LimitsSpec(Spec):
    """How much may be asked, over all workers of the gateway."""

    requests: Rate = optional("At most so many a second or a minute: 100/s, 30/m.")
    burst: int = optional(
        "So many at once after a pause; left out: what comes in a second, at least one.",
        ge=1,
        le=MAX_COUNT,
    )
    in_flight: int = optional("At most so many under way at once.", ge=1, le=MAX_COUNT)

    @model_validator(mode="after")
    def _bursts_at_a_rate(self) -> "LimitsSpec":
        if "burst" in self.model_fields_set and "requests" not in self.model_fields_set:
            raise fault("missing", "a burst needs `requests`")
        return self
