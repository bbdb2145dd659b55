"""`cvae decode` of this checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.decode import main

if __name__ == "__main__":
    sys.exit(main())
