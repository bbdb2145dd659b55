"""Download public corpora and check every file by its git blob id.

ptb, switchboard and yelp, which `all` means, are those of the repository of "Cyclical Annealing Schedule"
(Fu et al., 2019); snli, short_yelp, yahoo and yelp15 are the literature's, from two others. A file gets its
final name only once it is complete and its content is the expected one.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from cvae.cli.arguments import Arguments, entry_point, parser
from cvae.download import DataFile, DownloadError, check_url, fetch_all

COMMIT = "6ef4ebabb631df696cf4bfc333a965283eba1958"
HOST = "https://raw.githubusercontent.com"
DEFAULT_BASE_URL = f"{HOST}/haofuml/cyclical_annealing/{COMMIT}"

PTB_NOTE = (
    "Note: the Penn Treebank is licensed by the LDC; this preprocessed copy is the one the field "
    "shares. Use it for experiments, do not republish it."
)
EXAMPLES = """\
  %(prog)s all
  %(prog)s ptb --to ../corpora"""
TABLE = """\
ptb/train.txt language_model/data/ptb/train.txt 04d78dc94771b5c04adc40b3be08bd8c82942e7f
ptb/valid.txt language_model/data/ptb/val.txt 7b3d9d9fd705825715695328b2de872ffbc14a84
ptb/test.txt language_model/data/ptb/test.txt 8079cdf342f8d103e5647e1160a8fe3b58a213d5
switchboard/train.jsonl dialog/data/json_data/train.jsonl d78d6e973fdab4ce825730c0f25fcc0bd2e7a918
switchboard/valid.jsonl dialog/data/json_data/valid.jsonl 9c321920c918938b5feb57131b646156853cd7e4
switchboard/test.jsonl dialog/data/json_data/test.jsonl 67407f35fd1a4ae084509ab6daa5e708fc077629
switchboard/test_multi_ref.json dialog/data/test_multi_ref.json 5e017c1ba5a28c6d63e84ebff7937d1dd685f750
yelp/sentiment.train.0 semi/data/yelp/sentiment.train.0 036fc63dbd061c90f6ee7239153a091e65efebaf
yelp/sentiment.train.1 semi/data/yelp/sentiment.train.1 bacfff7637e2e98b9c37590c29e81f0ec99bf7ab
yelp/sentiment.dev.0 semi/data/yelp/sentiment.dev.0 1d011d817f637bece07533d8ef8e70227298f980
yelp/sentiment.dev.1 semi/data/yelp/sentiment.dev.1 f36e27ed83f3581ed17470ed4add7a2e56845df5
yelp/sentiment.test.0 semi/data/yelp/sentiment.test.0 897fb6c896404c65f6dc062a9827f2d6b586ad59
yelp/sentiment.test.1 semi/data/yelp/sentiment.test.1 219a8fb4b7c10520f21422e273dc38c72c0100c9
"""
FURTHER = {
    "zhangjf-nlp/DG-VAEs/6ad9e59f4af66fb8de64b7b0d03ba0c9ad3175f0": """\
snli/snli.train.txt datasets/snli_data/snli.train.txt db0a08915e128d58cf5f9ed1bf36c72f978b16e1
snli/snli.valid.txt datasets/snli_data/snli.valid.txt 8da6ad737af08e0fee3f35ed1d5f1d4d18b7f427
snli/snli.test.txt datasets/snli_data/snli.test.txt 1bdd3568978d21e71ec0a765fe319ad46cc10548
short_yelp/short_yelp.train.txt datasets/short_yelp_data/short_yelp.train.txt \
6c93efa5f9d0e3a1e71d12d0f393cbf321bfc3db
short_yelp/short_yelp.valid.txt datasets/short_yelp_data/short_yelp.valid.txt \
53662f3bb9ff7ef97850091b2532fb52f58f5d4a
short_yelp/short_yelp.test.txt datasets/short_yelp_data/short_yelp.test.txt \
db207af633e93220b0538b667021bdd40987a132
""",
    "OpenVLG/DELLA/55fdf6c018358294bbfb771ce574a1b6c23e2507": """\
yahoo/yahoo.train.txt data/yahoo/yahoo.train.txt ae7d4fc4d07e520dffdbd835868a1d7c7a6eb471
yahoo/yahoo.valid.txt data/yahoo/yahoo.valid.txt 4f7681b64f55d6f33461b1c604c2328124b4a092
yahoo/yahoo.test.txt data/yahoo/yahoo.test.txt fc5b20a939d06b657a857b423aa8772904ab434a
yelp15/yelp15.train.txt data/yelp/yelp.train.txt 2c4c802349fd14b932d2dead17846ca6b4e1b870
yelp15/yelp15.valid.txt data/yelp/yelp.valid.txt 5280a264fbc11a7795cef76bb79541d67e65c568
yelp15/yelp15.test.txt data/yelp/yelp.test.txt 8c61afcb9c034eb53cc390c315c276fbdbed5a19
""",
}

FILES = tuple(DataFile(*line.split()) for line in TABLE.splitlines())
FILES += tuple(
    DataFile(*line.split())._replace(base_url=f"{HOST}/{repository}")
    for repository, table in FURTHER.items()
    for line in table.splitlines()
)


def choose_base_url(argument: str | None, default: str = DEFAULT_BASE_URL) -> str:
    """Return the address to download from: the argument, else CVAE_DATA_URL, else the default."""
    given = argument if argument is not None else os.environ.get("CVAE_DATA_URL") or None
    base_url = default if given is None else given
    check_url(base_url, given_by_user=given is not None)
    return base_url.rstrip("/")


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    corpora = list(dict.fromkeys(item.corpus for item in FILES))
    head = parser("data", __doc__, EXAMPLES)
    head.add_argument("corpus", choices=[*corpora, "all"], help="all: those of the paper")
    place = Path(os.environ.get("CVAE_DATA") or "data")
    head.add_argument("--to", metavar="DIR", type=Path, default=place, help="default: $CVAE_DATA, else data")
    mirror = f"mirror of the source repository (default: $CVAE_DATA_URL, else {DEFAULT_BASE_URL})"
    head.add_argument("--base-url", metavar="URL", help=mirror)
    head.add_argument("--force", action="store_true", help="replace files whose content is another one")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> int:
    """Download what is missing, then print the line that tells other commands where it is."""
    options = parse(arguments)
    paper = [item for item in FILES if not item.base_url]
    items = paper if options.corpus == "all" else [item for item in FILES if item.corpus == options.corpus]
    try:
        base_url = choose_base_url(options.base_url, items[0].base_url or DEFAULT_BASE_URL)
        if any(item.corpus == "ptb" for item in items):
            print(PTB_NOTE, flush=True)
        if not fetch_all(items, options.to, base_url, options.force):
            return 1
    except DownloadError as err:
        print(f"cannot use the base URL: {err}; name another one with --base-url URL.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; complete files stay, the unfinished one was removed.", file=sys.stderr)
        return 130
    print(f"export CVAE_DATA={shlex.quote(str(options.to.resolve()))}")
    return 0
