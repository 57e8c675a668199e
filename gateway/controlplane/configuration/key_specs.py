"""What may people write about clients' keys: by which hash each is known, and what it opens?

Part of `schemas`; what each means is `gateway.core.access`.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import Name, Spec, Time, fault, optional
from gateway.controlplane.configuration.limit_specs import LimitsSpec
from gateway.core.access import HASH, MAX_HASHES, OF_NOTHING


def _hash(text: str) -> str:
    if not re.fullmatch(HASH, text):
        raise fault("hash", "is sha256: and 64 hexadecimal digits, as `headgate key add` makes it")
    if text == OF_NOTHING:
        raise fault("hash", "is the hash of no key at all, and would let everybody in")
    return text


Hash = Annotated[str, AfterValidator(_hash), Shown({"type": "string", "pattern": HASH})]


class KeySpec(Spec):
    """A consumer: the name behind a client's key. The key itself is nowhere."""

    hashes: list[Hash] = Field(
        description="SHA-256 of its key, or of several while one takes another's place.",
        min_length=1,
        max_length=MAX_HASHES,
    )
    routes: list[Name] = optional("The routes that it opens; left out: all.")
    expires: Time = optional("When it opens nothing any more; left out: never.")
    limits: LimitsSpec = optional("How much it may; left out: what `default_limits` says.")
