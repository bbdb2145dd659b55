"""Write mean and std of z, and the text, for each sentence of a file, in the order of the file.

The file may be what dataset=text reads: .txt with a sentence a line, or .jsonl, .csv, .tsv or .parquet with a
column of text. The output's name says which format it gets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cvae.cli.arguments import Arguments, add_model, entry_point, parser
from cvae.runs import hub
from cvae.runs.folder import RunFolder

EXAMPLES = """\
  %(prog)s outputs/ptb/default sentences.txt --to z.npz
  %(prog)s outputs/ptb/default reviews.csv --column text --to z.parquet"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("encode", __doc__, EXAMPLES)
    add_model(head)
    head.add_argument("file", type=Path, help="sentences")
    head.add_argument("--column", help="of a table (default: the only one that is text)")
    head.add_argument("--to", type=Path, required=True, metavar="FILE", help=".npz, .parquet or .jsonl")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Write the file and say what is in it."""
    options = parse(arguments)
    from cvae.data import codes, sources
    from cvae.data.vocabulary import words_of
    from cvae.errors import UserError
    from cvae.training.standalone import without_corpus

    codes.refuse_format(options.to)
    column = sources.text_column(options.file, options.column, setting="--column")
    texts = [text for _, text in sources.texts(options.file, column)]
    if not texts:
        raise UserError(f"{options.file} has no sentence in it")
    task = without_corpus(RunFolder(hub.local(options.folder)), options.device, options.checkpoint)
    mean, std = task.codec.arrays(texts)
    codes.write(options.to, mean, std, texts)
    print(f"{options.to}: {len(mean):,} sentences, z of {mean.shape[1]}")
    tokens, unknown = task.codec.corpus(texts).counted - len(texts), task.codec.unknown(texts)
    if empty := sum(not words_of(text) for text in texts):
        print(f"{empty:,} of them have no words: they have the z of the empty sentence", file=sys.stderr)
    if unknown:
        most = " ".join(token for token, _ in unknown.most_common(10))
        share = unknown.total() / tokens
        print(f"{100 * share:.2f} % of the tokens are read as <unk>, most often {most}", file=sys.stderr)
