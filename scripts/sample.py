"""What a run's model says: sentences from the prior, reconstructed or between two; answers in a dialog."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import count
from cvae.data.text import words_of
from cvae.errors import UserError
from cvae.runs.folder import RunFolder

if TYPE_CHECKING:
    from cvae.evaluation.samples import Sampler, Samples
    from cvae.tasks.dialog import DialogTask

EXAMPLES = """examples:
  python scripts/sample.py outputs/ptb/schedule-cyclical_task-ptb                       some of everything
  python scripts/sample.py outputs/ptb/default prior --count 20 --temperature 1 --top-p 0.9 --no-unk
  python scripts/sample.py outputs/ptb/default reconstruct "the company said it agreed"
  python scripts/sample.py outputs/ptb/default interpolate "stocks fell" "the company said it agreed"
  python scripts/sample.py outputs/ptb/default neighbours "stocks fell" --split train --count 5
  python scripts/sample.py outputs/yelp/default arithmetic "the food was good" --from 1 --to 0 --count 5
  python scripts/sample.py outputs/ptb/default arithmetic "stocks fell" --from past.txt --to present.txt
  python scripts/sample.py outputs/ptb/default --json > samples.json
  python scripts/sample.py outputs/switchboard/default --chat
  python scripts/sample.py outputs/switchboard_quick/A --beside outputs/switchboard_quick/B --count 20

Words of a sentence are split at spaces and must be spelt as in the corpus. Without --temperature each word
is the most likely one. Runs of task=switchboard answer contexts of --split, or what you type (--chat)."""

# the sentences that each takes
MODES = {"all": 0, "prior": 0, "reconstruct": None, "interpolate": 2, "neighbours": None, "arithmetic": None}


def share(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    if not 0 < (number := float(text)) <= 1:
        raise ValueError
    return number


def temperature(text: str) -> float:
    """A number from 0 on, for argparse."""
    if not 0 <= (number := float(text)) < float("inf"):
        raise ValueError
    return number


def seed(text: str) -> int:
    """A whole number that torch takes, for argparse."""
    if not 0 <= (number := int(text)) < 2**63:
        raise ValueError
    return number


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("mode", nargs="?", choices=MODES, default="all")
    parser.add_argument("sentences", nargs="*", help="to reconstruct, or the two to go between, in quotes")
    parser.add_argument(
        "--count", type=count, default=10, metavar="N", help="sentences, places between two, or neighbours"
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "held"),
        default="val",
        help="of neighbours, and of sentences where none are given",
    )
    parser.add_argument(
        "--from", dest="start", metavar="SET", help="of arithmetic: a file of sentences, or a label"
    )
    parser.add_argument("--to", dest="end", metavar="SET", help="so that z + t (mean of TO - mean of FROM)")
    parser.add_argument(
        "--temperature", type=temperature, default=0.0, metavar="T", help="0: greedy (default)"
    )
    parser.add_argument(
        "--top-p", type=share, default=1.0, metavar="P", help="draw from the likeliest P only"
    )
    parser.add_argument("--no-unk", action="store_true", help="never say <unk>")
    parser.add_argument(
        "--longest",
        type=count,
        metavar="N",
        help="words at most (60; answers: as many as the model has read)",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--checkpoint", choices=("best", "last"), help="(default: the one the run reports)")
    parser.add_argument("--data", metavar="DIR", help="where the corpus is now (default: where it was)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="one object instead of text")
    dialog = parser.add_argument_group("runs of task=switchboard")
    dialog.add_argument("--chat", action="store_true", help="type what A says, read what B may answer")
    dialog.add_argument(
        "--topic", default="", help="of the chat, as in the corpus: 'music' (default: unknown)"
    )
    dialog.add_argument("--answers", type=count, metavar="N", help="to each context (default: the run's)")
    dialog.add_argument(
        "--beside", type=Path, nargs="+", default=[], metavar="RUN", help="more runs, for the same contexts"
    )
    options = parser.parse_args(arguments)
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program with a sentence where options do not go together, or would not be read."""
    if (takes := MODES[options.mode]) is not None and len(options.sentences) != takes:
        given = len(options.sentences)
        parser.error(f"{options.mode} takes {takes or 'no'} sentences, each in quotes; found {given}")
    if options.mode == "arithmetic" and None in (options.start, options.end):
        parser.error(
            "arithmetic goes --from one set of sentences --to another: files, or labels of the corpus"
        )
    if options.chat and (options.beside or options.json):
        parser.error("--chat is with one run, in text")
    unread = ("split", "count") if options.chat else ("topic",)
    unread = [f"--{name}" for name in unread if getattr(options, name) != parser.get_default(name)]
    if options.mode != "arithmetic":
        unread += [f"--{name}" for name, given in (("from", options.start), ("to", options.end)) if given]
    if unread:
        mode = "--chat" if options.chat else options.mode
        parser.error(f"{' and '.join(unread)}: not read by {mode}")
    if options.top_p < 1 and not options.temperature:
        parser.error("--top-p is for drawn words: give --temperature too")
    if options.mode == "interpolate" and options.count < 2:
        parser.error("--count must be at least 2 places, the two ends")
    if not all(map(words_of, options.sentences)):
        parser.error("a sentence has no words")


def found(sampler: Sampler, options: argparse.Namespace) -> Samples:
    """What was asked for. Raises UserError where the model has no prior."""
    if options.mode == "prior" and sampler.task.config.autoencoder:
        raise UserError(f"{options.folder}: schedule=none has no prior to draw from")
    typed = [words_of(sentence) for sentence in options.sentences]
    if unknown := {w for words in typed for w in words} - set(sampler.task.data.vocabulary.index):
        print(f"read as <unk>: {' '.join(sorted(unknown))}", file=sys.stderr)
    if options.mode == "interpolate":
        return sampler.interpolation(*typed, points=options.count)
    if options.mode in ("neighbours", "arithmetic"):
        typed = typed or sampler.sentences(options.split, 3)
        if options.mode == "neighbours":
            return sampler.neighbours(typed, options.split, options.count)
        return sampler.arithmetic(typed, options.start, options.end, options.count)
    drawn = (
        {}
        if options.mode == "reconstruct" or sampler.task.config.autoencoder
        else sampler.prior(options.count)
    )
    if options.mode == "prior":
        return drawn
    if typed:
        return drawn | sampler.reconstructions(typed)
    sentences = sampler.sentences(options.split, max(2, options.count))
    drawn |= sampler.reconstructions(sentences[: options.count])
    if options.mode == "reconstruct" or len(sentences) < 2:
        return drawn
    return drawn | sampler.interpolation(*sentences[:2], points=7)


def dialog_task(folder: RunFolder, options: argparse.Namespace) -> DialogTask:
    """A run of task=switchboard that answers as asked. Raises UserError for any other, and for other data."""
    words = {"temperature": options.temperature, "top_p": options.top_p, "forbid_unknown": options.no_unk}
    samples = {} if options.answers is None else {"samples": options.answers}
    config = folder.configuration(options.device, options.data)
    if config.task.name != "switchboard":
        raise UserError(f"{folder} is a run of task={config.task.name}, which does not answer")
    if config.autoencoder:
        raise UserError(f"{folder}: schedule=none has no prior to answer from")
    if options.mode != "all":
        raise UserError(f"{folder} answers in a dialog: leave out {options.mode}")
    config = folder.configuration(options.device, options.data, **words, **samples)
    from cvae.training import run

    task = run.reopen(config, folder, options.checkpoint, options.split)
    task.model.eval()
    task.longest = options.longest or task.longest
    return task


def answers(options: argparse.Namespace) -> str:
    """The same contexts and what each run answers. Raises UserError where the contexts are not the same."""
    from cvae.evaluation import chat

    found, first = {}, None
    for path in (options.folder, *options.beside):
        task = dialog_task(RunFolder(path), options)
        corpus = dataclasses.replace(task.config.dataset, path="", consecutive=1, whole_passages=True)
        data = corpus, task.data.fingerprints
        if data != (first := first or data):
            raise UserError(
                f"{path} and {options.folder} differ in their data: their contexts are not the same"
            )
        found[str(path)] = chat.conversations(task, options.split, options.count, options.seed)
    if not options.json:
        return chat.page(found)
    plain = {name: [chat.plain(one) for one in some] for name, some in found.items()}
    return json.dumps(plain, indent=1, ensure_ascii=False)


def chat(options: argparse.Namespace) -> None:
    """Prints answers to each line that is typed, until there are no more."""
    from cvae.evaluation import chat

    said = chat.chat(dialog_task(RunFolder(options.folder), options), sys.stdin, options.topic, options.seed)
    try:
        for text in said:
            print(text, flush=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"what is typed must be UTF-8, found the byte {error.object[error.start]:#04x}"
        ) from None
    except KeyboardInterrupt:
        print()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the sentences; the exit status is 1 where it cannot."""
    options = parse(arguments)
    folder = RunFolder(options.folder)
    try:
        config = folder.configuration(options.device, options.data)
        if options.chat:
            chat(options)
            return 0
        if options.beside or config.task.name == "switchboard":
            print(answers(options))
            return 0
        if options.answers is not None:
            raise UserError(f"{folder} is a run of task={config.task.name}, which does not answer: --answers")
        from cvae.evaluation.samples import Sampler, text, without_unknown
        from cvae.models.decode import SamplingOptions
        from cvae.training import run

        how = SamplingOptions(options.temperature, options.top_p)
        how = without_unknown(how) if options.no_unk else how
        task = run.reopen(config, folder, options.checkpoint, options.split)
        said = found(Sampler(task, how, options.longest or 60, options.seed), options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(said, indent=1, ensure_ascii=False) if options.json else text(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
