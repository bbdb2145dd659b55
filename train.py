"""Trains and compares text VAEs: `python train.py --help`."""

import sys
from pathlib import Path

import hydra

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the cvae beside this, whichever is installed

from cvae.cli import main as cli


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    return cli.run(cfg)


if __name__ == "__main__":
    cli.start(main, sys.argv[1:], Path(__file__).parent.resolve() / "conf")
