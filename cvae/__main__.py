"""`python -m cvae`."""

import sys

from cvae.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
