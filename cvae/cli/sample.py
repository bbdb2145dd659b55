"""Print what a run's model says: sentences drawn from z, or answers in a dialog."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cvae.cli.arguments import (
    Arguments,
    Parser,
    add_choice,
    add_run,
    count,
    entry_point,
    parsed,
    parser,
    refuse_choice,
)
from cvae.config.schema import DialogFiles
from cvae.data.vocabulary import words_of
from cvae.errors import UserError
from cvae.runs import hub
from cvae.runs.folder import RunFolder

if TYPE_CHECKING:
    from cvae.evaluation.samples import Sampler, Samples
    from cvae.tasks.dialog import DialogTask

EXAMPLES = """\
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb                       some of everything
  %(prog)s outputs/ptb/default prior --count 20 --temperature 1 --top-p 0.9 --no-unk
  %(prog)s outputs/ptb/default reconstruct "the company said it agreed" --beam 10
  %(prog)s outputs/ptb/default interpolate "stocks fell" "the company said it agreed"
  %(prog)s outputs/ptb/default neighbours "stocks fell" --split train --count 5
  %(prog)s outputs/yelp/default arithmetic "the food was good" --from 1 --to 0 --count 5
  %(prog)s outputs/ptb/default arithmetic "stocks fell" --from past.txt --to present.txt
  %(prog)s outputs/ptb/default --json > samples.json
  %(prog)s outputs/switchboard/default --chat
  %(prog)s outputs/switchboard_quick/A --beside outputs/switchboard_quick/B --count 20

Words of a sentence are split at spaces and must be spelt as in the corpus, which is read only where
sentences or labels come from it. Without --temperature each word is the most likely one. Runs of
dialog tasks answer contexts of --split, or what you type (--chat)."""

# the sentences that each mode takes, and the options that it reads beside those of every mode
SENTENCES = {
    "all": 0,
    "prior": 0,
    "reconstruct": None,
    "interpolate": 2,
    "neighbours": None,
    "arithmetic": None,
}
WORDS = {"temperature", "top_p", "beam", "no_unk", "longest", "seed"}
READ = {
    "all": {"count", "split", "answers", "beside", *WORDS},
    "prior": {"count", *WORDS},
    "reconstruct": {"count", "split", *WORDS},
    "reconstruct with sentences": {*WORDS},
    "interpolate": {"count", *WORDS},
    "neighbours": {"count", "split"},
    "arithmetic": {"count", "split", "start", "end", *WORDS},
    "arithmetic with sentences": {"count", "start", "end", *WORDS},
    "--chat": {"chat", "topic", "answers", *WORDS} - {"beam"},
}
EVERY = {"folder", "mode", "sentences", "checkpoint", "data", "device", "json"}
SPELT = {"start": "from", "end": "to", "top_p": "top-p", "no_unk": "no-unk"}


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line; options that would not be read are refused."""
    head = parser("sample", __doc__, EXAMPLES)
    add_run(head, "where the corpus is now, for what takes sentences or labels from it")
    add = head.add_argument
    add("mode", nargs="?", choices=SENTENCES, default="all")
    add("sentences", nargs="*", help="to reconstruct, or the two to go between, in quotes")
    splits = ("train", "val", "test", "held")
    add("--split", choices=splits, default="val", help="of neighbours, and of sentences where none are given")
    add("--count", type=count, default=10, metavar="N", help="sentences, places or neighbours (default: 10)")
    add("--from", dest="start", metavar="SET", help="of arithmetic: a file of sentences, or a label")
    add("--to", dest="end", metavar="SET", help="so that z + t (mean of TO - mean of FROM)")
    add_choice(head)
    add("--json", action="store_true", help="one object instead of text")
    add = head.add_argument_group("runs of task=switchboard and task=dialogs").add_argument
    add("--chat", action="store_true", help="type what A says, read what B may answer")
    add("--topic", default="", help="of the chat, as in the corpus: 'music' (default: unknown)")
    add("--answers", type=count, metavar="N", help="to each context (default: the run's)")
    add("--beside", type=Path, nargs="+", default=[], metavar="RUN", help="more runs, for the same contexts")
    options, given = parsed(head, arguments)
    _refuse_sentences(head, options)
    _refuse_unread(head, options, given)
    return options


def _refuse_sentences(head: Parser, options: argparse.Namespace) -> None:
    """End the program where the sentences are too many or too few, or have no words."""
    takes, given = SENTENCES[options.mode], len(options.sentences)
    if takes is not None and given != takes:
        head.error(f"{options.mode} takes {takes or 'no'} sentences, each in quotes; found {given}")
    if not all(map(words_of, options.sentences)):
        head.error("a sentence has no words")
    if options.mode == "arithmetic" and None in (options.start, options.end):
        head.error("arithmetic goes --from one set of sentences --to another: files, or labels of the corpus")
    if options.mode == "interpolate" and options.count < 2:
        head.error("--count must be at least 2 places, the two ends")


def _refuse_unread(head: Parser, options: argparse.Namespace, given: set[str]) -> None:
    """End the program where an option was given that the mode does not read."""
    if options.chat and {"beside", "json"} & given:
        head.error("--chat is with one run, in text")
    mode = "--chat" if options.chat else options.mode
    mode = f"{mode} with sentences" if options.sentences and f"{mode} with sentences" in READ else mode
    unread = [name for name in vars(options) if name in given - READ[mode] - EVERY]
    if unread:
        head.error(f"{' and '.join(f'--{SPELT.get(name, name)}' for name in unread)}: not read by {mode}")
    refuse_choice(head, options, given)
    if "seed" in given and not options.temperature and mode not in ("all", "prior", "--chat"):
        head.error(f"--seed: {mode} draws nothing without --temperature")


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the sentences or answers."""
    options = parse(arguments)
    folder = RunFolder(hub.local(options.folder))
    task = folder.configuration(options.device, options.data).task.name
    if options.chat:
        chat(options)
    elif options.beside or task == "switchboard":
        print(answers(options))
    elif options.answers is not None:
        raise UserError(f"{folder} is a run of task={task}, which does not answer: --answers")
    else:
        print(sentences(folder, options))


def sentences(folder: RunFolder, options: argparse.Namespace) -> str:
    """Return the sentences of a language model, as text or JSON."""
    from cvae.evaluation.samples import Sampler, SentenceTask, text, without_unknown
    from cvae.models.decode import SamplingOptions
    from cvae.training import run
    from cvae.training.standalone import without_corpus

    how = SamplingOptions(options.temperature, options.top_p, beam=options.beam)
    how = without_unknown(how) if options.no_unk else how
    if _needs_corpus(options):
        config = folder.configuration(options.device, options.data)
        task = cast(SentenceTask, run.reopen(config, folder, options.checkpoint, options.split))
    else:
        task = without_corpus(folder, options.device, options.checkpoint)
    found = sampled(Sampler(task, how, options.longest or 60, options.seed), options)
    return json.dumps(found, indent=1, ensure_ascii=False) if options.json else text(found)


def _needs_corpus(options: argparse.Namespace) -> bool:
    """Return whether sentences or labels of the corpus are asked for."""
    if options.mode == "arithmetic" and not all(
        Path(name).is_file() for name in (options.start, options.end)
    ):
        return True
    return options.mode == "neighbours" or not (options.sentences or options.mode == "prior")


def sampled(sampler: Sampler, options: argparse.Namespace) -> Samples:
    """Return what a mode asks for. Raises UserError where the model has no prior."""
    mode, has_prior = options.mode, not sampler.task.config.autoencoder
    if mode == "prior" and not has_prior:
        raise UserError(f"{options.folder}: schedule=none has no prior to draw from")
    typed = options.sentences
    if unknown := sampler.task.codec.unknown(typed):
        print(f"read as <unk>: {' '.join(sorted(unknown))}", file=sys.stderr)
    match mode:
        case "prior":
            return sampler.prior(options.count)
        case "interpolate":
            return sampler.interpolation(typed[0], typed[1], options.count)
        case "neighbours":
            typed = typed or sampler.sentences(options.split, 3)
            return sampler.neighbours(typed, options.split, options.count)
        case "arithmetic":
            typed = typed or sampler.sentences(options.split, 3)
            return sampler.arithmetic(typed, options.start, options.end, options.count)
    if typed:
        return sampler.reconstructions(typed)
    some = sampler.sentences(options.split, max(2, options.count))
    readings = sampler.reconstructions(some[: options.count])
    if mode == "reconstruct":
        return readings
    found = (sampler.prior(options.count) if has_prior else {}) | readings
    return found | (sampler.interpolation(some[0], some[1], 7) if len(some) > 1 else {})


def dialog_task(folder: RunFolder, options: argparse.Namespace) -> DialogTask:
    """Return a run that answers as asked. Raises UserError for a run that does not answer, or other data."""
    words = {"temperature": options.temperature, "top_p": options.top_p, "forbid_unknown": options.no_unk}
    samples = {} if options.answers is None else {"samples": options.answers}
    config = folder.configuration(options.device, options.data)
    if config.task.name != "switchboard":
        raise UserError(f"{folder} is a run of task={config.task.name}, which does not answer")
    if config.autoencoder:
        raise UserError(f"{folder}: schedule=none has no prior to answer from")
    if options.beam > 1:
        raise UserError(f"{folder} draws several answers to a context: leave out --beam")
    if options.mode != "all":
        raise UserError(f"{folder} answers in a dialog: leave out {options.mode}")
    config = folder.configuration(options.device, options.data, **words, **samples)
    from cvae.tasks.dialog import DialogTask
    from cvae.training import run

    task = run.reopen(config, folder, options.checkpoint, options.split)
    assert isinstance(task, DialogTask)
    task.model.eval()
    task.longest = options.longest or task.longest
    return task


def answers(options: argparse.Namespace) -> str:
    """Return contexts and what each run answers. Raises UserError where the contexts are not the same."""
    from cvae.evaluation import chat

    found, first = {}, None
    for path in (options.folder, *options.beside):
        task = dialog_task(RunFolder(path), options)
        assert isinstance(task.config.dataset, DialogFiles)
        corpus = dataclasses.replace(task.config.dataset, path="", consecutive=1, whole_passages=True)
        data = corpus, task.data.fingerprints
        if data != (first := first or data):
            raise UserError(
                f"{path} and {options.folder} differ in their data: their contexts are not the same"
            )
        found[str(path)] = chat.conversations(task, options.split, options.count, options.seed)
    if not options.json:
        return chat.page(found)
    plain = {name: [chat.plain(one) for one in conversations] for name, conversations in found.items()}
    return json.dumps(plain, indent=1, ensure_ascii=False)


def chat(options: argparse.Namespace) -> None:
    """Print answers to each line that is typed, until there are no more."""
    from cvae.evaluation import chat

    task = dialog_task(RunFolder(options.folder), options)
    try:
        for text in chat.chat(task, sys.stdin, options.topic, options.seed):
            print(text, flush=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"what is typed must be UTF-8, found the byte {error.object[error.start]:#04x}"
        ) from None
    except KeyboardInterrupt:
        print()
