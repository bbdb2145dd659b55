"""What the commands share: the head of their parsers, their arguments, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from cvae.program import command_line

Arguments = Sequence[str] | None  # None: those of the process
Number = TypeVar("Number", int, float)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def typed(name: str) -> str:
    """Return a command as it was typed: `cvae table`, or `python scripts/table.py` for the script."""
    file = Path(sys.argv[0])
    return command_line(name) if file.suffix == ".py" and file.stem != "__main__" else f"cvae {name}"


def parser(name: str, about: str | None, examples: str = "") -> Parser:
    """Return a command's parser. In `examples`, `%(prog)s` stands for the command as it was typed."""
    return Parser(
        prog=typed(name),
        description=about,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def which(text: str) -> str:
    """Return the name of a checkpoint, for argparse: best, last, or the step of one that was kept."""
    if text in ("best", "last") or re.fullmatch("[0-9]{1,18}", text):
        return text
    raise argparse.ArgumentTypeError(f"invalid checkpoint: {text!r}, must be best, last or a step")


def add_model(head: Parser) -> None:
    """Add the arguments of commands that open a checkpoint."""
    head.add_argument("folder", metavar="RUN", help="a run folder, an exported one, or owner/name of the hub")
    head.add_argument(
        "--checkpoint",
        type=which,
        metavar="best|last|STEP",
        help="(default: the one the run reports; STEP: one that train.keep kept)",
    )
    head.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def add_run(head: Parser, data: str) -> None:
    """Add the arguments of commands that open a checkpoint and may need a corpus."""
    add_model(head)
    head.add_argument("--data", metavar="PATH", help=data)


def add_choice(head: Parser) -> None:
    """Add the options of commands that write sentences: how words are chosen."""
    add = head.add_argument
    add("--temperature", type=temperature, default=0.0, metavar="T", help="default: 0, the likeliest word")
    add("--top-p", type=share, default=1.0, metavar="P", help="draw from the likeliest P only")
    add("--beam", type=count, default=1, metavar="K", help="the likeliest sentence that K beginnings lead to")
    add("--no-unk", action="store_true", help="never say <unk>")
    longest = "words at most (60; answers: as many as the model has read)"
    add("--longest", type=count, metavar="N", help=longest)
    add("--seed", type=seed, default=0, help="of z and of drawn words (0)")


def refuse_choice(head: Parser, options: argparse.Namespace, given: set[str]) -> None:
    """End the program where one option of `add_choice` leaves another unread."""
    if "top_p" in given and not options.temperature:
        head.error("--top-p is for drawn words: give --temperature too")
    if options.beam > 1 and options.temperature:
        head.error("--beam draws nothing: leave out --temperature")


def parsed(head: Parser, arguments: Arguments) -> tuple[argparse.Namespace, set[str]]:
    """Return the parsed command line, and the names of the arguments that were given."""
    options = head.parse_args(arguments)
    unset = object()
    marked = head.parse_args(arguments, argparse.Namespace(**dict.fromkeys(vars(options), unset)))
    return options, {name for name, value in vars(marked).items() if value is not unset}


def add_folders(head: Parser, at_least: str = "+") -> None:
    """Add the arguments of commands that read the runs of some folders."""
    head.add_argument("folders", nargs=at_least, type=Path, help="folders with runs in or below them")


def number(
    name: str, kind: type[Number], limits: str, allowed: Callable[[Number], bool]
) -> Callable[[str], Number]:
    """Return a type for argparse: a number that is `allowed`, which `limits` puts in words."""

    def convert(text: str) -> Number:
        with contextlib.suppress(ValueError):
            if allowed(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"invalid {name} value: {text!r}, must be {limits}")

    return convert


share = number("share", float, "above 0 and at most 1", lambda value: 0 < value <= 1)
temperature = number("temperature", float, "0 or above", lambda value: 0 <= value < float("inf"))
seed = number("seed", int, "a whole number from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63)
count = number("count", int, "a whole number from 1 to 1,000,000", lambda value: 1 <= value <= 1_000_000)


def entry_point(work: Callable[[Arguments], int | None]) -> Callable[..., int]:
    """Make a command of its work: the result is the exit status, and no ending shows a traceback.

    A user's mistake ends in its sentence, and quietly what Ctrl-C or a closed pipe (`| head`) ends.
    """

    @functools.wraps(work)
    def main(arguments: Arguments = None) -> int:
        try:
            try:
                return work(arguments) or 0
            finally:
                sys.stdout.flush()  # a closed pipe shows here, not at Python's exit
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which Python flushes again
            return 141
        except OSError as error:
            sentence = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except Exception as error:
            from cvae.errors import UserError  # here, since `cvae data` works without Hydra

            if not isinstance(error, UserError):
                raise
            sentence = str(error)
        print(sentence, file=sys.stderr)
        return 1

    return main
