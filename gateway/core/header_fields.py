"""What may a header be called, and what may stand behind its name?

Texts as people write them in a configuration; what comes over the wire is `lines`.
"""

import re
from typing import Any

TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105 -- RFC 9110's word for a name
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")


def is_token(text: Any, pattern: str = TOKEN, longest: int = 256) -> bool:
    """Whether `text` is one word as RFC 9110 has it, or as `pattern` does."""
    return (
        isinstance(text, str) and len(text) <= longest and re.fullmatch(pattern, text) is not None
    )


def is_header_value(text: Any) -> bool:
    """Whether `text` may stand behind a header's name."""
    return isinstance(text, str) and _VALUE.fullmatch(text) is not None and len(text) <= 4096
