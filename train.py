"""Train and compare text VAEs: `python train.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the cvae beside this, whichever is installed

from cvae.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
