"""What may stand in a header field, as people write it in what is configured?"""

import re
from typing import Any

TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105 -- RFC 9110's word for a name
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\uffff]*")


def is_header_value(text: Any) -> bool:
    """Whether `text` may stand behind a header's name."""
    return isinstance(text, str) and _VALUE.fullmatch(text) is not None and len(text) <= 4096
