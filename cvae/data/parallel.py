"""Work on many texts by several processes, with the results that one process has. Torch-free."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from cvae.errors import UserError

CHUNK = 20_000  # texts that a process works on at once; fewer need no second process
MOST = 8  # processes: one cannot read texts for more

Result = TypeVar("Result")


def in_chunks(
    function: Callable[[list[str]], Result], texts: Iterable[str], processes: int | None = None
) -> Iterator[Result]:
    """Yield what a function makes of each chunk of texts, in their order, whatever the number of processes.

    By default that is the number of cores. Raises UserError as the function and the texts do.
    """
    remaining = iter(texts)
    chunks = iter(lambda: list(itertools.islice(remaining, CHUNK)), [])
    first = list(itertools.islice(chunks, 2))
    number = available() if processes is None else processes
    if len(first) < 2 or number < 2:
        yield from map(function, itertools.chain(first, chunks))
    else:
        yield from _by_processes(function, itertools.chain(first, chunks), number)


def available() -> int:
    """Return how many processes may work here: one where they cannot be forked, or must not have children."""
    if not sys.platform.startswith("linux") or multiprocessing.current_process().daemon:
        return 1
    return min(MOST, len(os.sched_getaffinity(0)))


def _by_processes(
    function: Callable[[list[str]], Result], chunks: Iterable[list[str]], number: int
) -> Iterator[Result]:
    """Yield results in order; the processes take turns, and each has one chunk at a time.

    They are forked, so that hashes of text have this process's salt, and never call torch or its threads.
    """
    context = multiprocessing.get_context("fork")
    lines: list[Connection] = []
    workers = []
    try:
        for _ in range(number):
            ours, theirs = context.Pipe()
            lines.append(ours)
            worker = context.Process(target=_serve, args=(function, theirs, list(lines)), daemon=True)
            worker.start()
            workers.append(worker)
            theirs.close()
        turn = -1
        for turn, chunk in enumerate(chunks):
            line = lines[turn % number]
            if turn >= number:
                yield _answer(line)
            line.send(chunk)
        for pending in range(max(0, turn + 1 - number), turn + 1):
            yield _answer(lines[pending % number])
    finally:
        for line in lines:
            line.close()
        for worker in workers:
            worker.kill()  # it may not have come to _serve yet, and holds nothing but its chunk
            worker.join()


def _answer(line: Connection) -> Result:  # type: ignore[type-var]  # of the function at the other end
    """Return a result. Raises the UserError that came in its place, or where there is none."""
    try:
        answer = line.recv()
    except (EOFError, OSError):
        raise UserError("a process that read the texts has died: is there enough memory?") from None
    if isinstance(answer, UserError):
        raise answer
    return answer


def _serve(function: Callable[[list[str]], Result], line: Connection, others: list[Connection]) -> None:
    """Answer chunks until the other process closes the line or is gone; signals are its business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for other in others:  # an open copy here would keep a line open whose process is gone
        other.close()
    with suppress(EOFError, OSError):
        while True:
            chunk = line.recv()
            try:
                answer: Result | UserError = function(chunk)
            except UserError as error:
                answer = error
            line.send(answer)
