"""Print a sentence for each z of a file: its `z` or else its `mean`, as `encode` writes them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cvae.cli.arguments import Arguments, add_choice, add_model, entry_point, parsed, parser, refuse_choice

EXAMPLES = """\
  %(prog)s outputs/ptb/default z.npz
  %(prog)s outputs/ptb/default z.jsonl --beam 10 --no-unk --to sentences.txt"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("decode", __doc__, EXAMPLES)
    add_model(head)
    head.add_argument("file", type=Path, help=".npz, .parquet or .jsonl")
    head.add_argument("--to", type=Path, metavar="FILE", help="a text file (default: the terminal)")
    add_choice(head)
    options, given = parsed(head, arguments)
    refuse_choice(head, options, given)
    return options


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print or write a sentence a line."""
    options = parse(arguments)
    from cvae.data import codes
    from cvae.io import write_atomically
    from cvae.library import load

    vae = load(options.folder, options.checkpoint, options.device)
    choice = {name: getattr(options, name) for name in ("temperature", "top_p", "beam", "no_unk", "seed")}
    sentences = vae.decode(codes.read(options.file, vae.latent), longest=options.longest or 60, **choice)
    text = "".join(f"{' '.join(sentence.splitlines())}\n" for sentence in sentences)
    if options.to is None:
        sys.stdout.write(text)
    else:
        write_atomically(options.to, text)
        print(f"{options.to}: {len(sentences):,} sentences")
