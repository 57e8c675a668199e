"""`python -m instance MODEL …`"""

import sys

from instance.cli import main

if __name__ == "__main__":
    sys.exit(main())
