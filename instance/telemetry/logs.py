"""Where do an instance's log lines go, and how do they look?"""

import logging
import sys


def configure_logging(level: int = logging.INFO) -> None:
    """One line per record on stderr: when, how grave, who, what."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s",
        force=True,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
