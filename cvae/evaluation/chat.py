"""Dialogs to read: contexts with their reference and several answers, of one run or of several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from cvae.config.messages import listing
from cvae.data.dialog_records import Dialog, Utterance, tokenise
from cvae.data.dialogs import DialogCorpus, DialogSplits, ResponseBatch
from cvae.data.text import fixed_subset
from cvae.errors import UserError
from cvae.evaluation.acts import ActClassifier


class AnsweringTask(Protocol):
    """A task with a model of dialog responses and, where there are dialog acts, a classifier of these."""

    data: DialogSplits

    @property
    def device(self) -> torch.device: ...

    @property
    def classifier(self) -> ActClassifier | None: ...

    def generator(self, seed: int | None = None) -> torch.Generator: ...

    def answers(self, split: str, responses: np.ndarray, seed: int | None) -> list[list[list[int]]]: ...

    def answer(self, batch: ResponseBatch, noise: torch.Generator) -> list[list[list[int]]]: ...


class Said(NamedTuple):
    """An utterance and its dialog act, None in a corpus without acts."""

    text: str
    act: str | None


class Conversation(NamedTuple):
    """A context (speakers and words, oldest first), the responder, the reference, and the answers.

    The topic is None in a corpus without topics.
    """

    topic: str | None
    context: list[tuple[str, str]]
    speaker: str
    reference: Said
    answers: list[Said]


def conversations(task: AnsweringTask, split: str, count: int, seed: int) -> list[Conversation]:
    """Return `count` responses of a split, the same for every run on it, and the model's answers.

    The act of a reference is the data's, that of an answer the classifier's.
    """
    corpus, words = task.data.corpora[split], task.data.vocabulary.words
    topics, acts = ([*names, "unknown" if names else None] for names in (task.data.topics, task.data.acts))
    rows = np.sort(fixed_subset(count, len(corpus)))
    rated = []
    for row, candidates in zip(rows, task.answers(split, rows, seed), strict=True):
        place = corpus.places[row]
        before = [p for p in range(corpus.starts[row], place) if corpus.speakers[p] >= 0]
        texts = [" ".join(words[n] for n in corpus.utterance(p)) for p in [*before, place]]
        names = [corpus.name(p) for p in [*before, place]]
        rated.append(
            Conversation(
                topics[corpus.topics[corpus.dialogs[place]]],
                list(zip(names[:-1], texts[:-1], strict=True)),
                names[-1],
                Said(texts[-1], acts[corpus.acts[place]]),
                _said(task, candidates),
            )
        )
    return rated


def answers(task: AnsweringTask, context: Sequence[str], topic: str, seed: int) -> list[Said]:
    """Return B's answers to a typed context, whose utterances are A's and B's in turn, the last one A's.

    Both speakers are the train split's average person; `topic` is one of its topics, or empty for unknown.
    """
    train = task.data.corpora["train"]
    turns = [(len(context) - 1 - place) % 2 for place in range(len(context))]
    words = [tokenise(text, train.config.lower) for text in context]
    typed = [Utterance(*turn) for turn in zip(turns, words, strict=True)]
    dialog = Dialog(topic or None, ["A", "B"], [{}, {}], [*typed, Utterance(1, [])])
    batch = DialogCorpus([dialog], train.labels, train.config, task.device).batch(np.array([len(typed)]))
    batch = replace(batch, people=train.average_person.repeat(1, 2))
    return _said(task, task.answer(batch, task.generator(seed))[0])


def chat(task: AnsweringTask, lines: Iterable[str], topic: str, seed: int) -> Iterator[str]:
    """Yield what to print before the first line and after each: the answers to the typed line.

    A number chooses another answer than the first; an empty line begins a new dialog. Raises UserError for
    a topic that the train split lacks, whatever its case.
    """
    topics = {name.casefold(): name for name in task.data.topics}
    if topic and not topics:
        raise UserError(f"--topic {topic}: the train split has no topics")
    if topic and topic.casefold() not in topics:
        raise UserError(f"--topic {topic} is none of the train split's topics: {listing(topics)}")
    topic = topics.get(topic.casefold(), "")
    yield "You are A. A number chooses another answer of B's than the first; an empty line begins anew."
    context: list[str] = []
    choices: list[Said] = []
    for line in lines:
        text = line.strip()
        if not text:
            context, choices = [], []
            yield "A new dialog."
        elif text.isdecimal() and len(text) < 10 and choices:
            context[-1] = choices[(int(text) - 1) % len(choices)].text
            yield f"B has said: {context[-1]}"
        else:
            choices = answers(task, [*context, text], topic, seed + len(context))
            context += [text, choices[0].text]
            yield "\n".join(numbered(choices))


def numbered(answers: Sequence[Said], show: Callable[[str], str] = str) -> list[str]:
    """Return answers as lines, each with its number."""
    return [f"{n}. {show(said.text)}{_in_brackets(said, show)}" for n, said in enumerate(answers, start=1)]


def _in_brackets(said: Said, show: Callable[[str], str]) -> str:
    """Return the dialog act of an utterance to stand behind it, if it has one."""
    return "" if said.act is None else f" ({show(said.act)})"


def plain(value: Any) -> Any:
    """Return conversations as plain dicts and lists, for JSON, without what their corpus does not have."""
    if isinstance(value, Conversation | Said):
        return {name: plain(part) for name, part in value._asdict().items() if part is not None}
    return [plain(part) for part in value] if isinstance(value, list) else value


def _said(task: AnsweringTask, candidates: Sequence[Sequence[int]]) -> list[Said]:
    """Return answers, given as word numbers, with the classifier's acts, if there are any."""
    words, names = task.data.vocabulary.words, task.data.acts
    texts = [" ".join(words[number] for number in answer) for answer in candidates]
    if (classifier := task.classifier) is None:
        return [Said(text, None) for text in texts]
    return [Said(text, names[act]) for text, act in zip(texts, classifier(candidates), strict=True)]


def _known(name: str, show: Callable[[str], str]) -> str:
    """Return the name of a speaker: as it is where it is a word or, of a stranger, `?` and a number."""
    return name if re.fullmatch(r"[^\W_]+|\?\d*", name) else show(name)


def page(runs: dict[str, list[Conversation]], show: Callable[[str], str] = str) -> str:
    """Return each context once, its reference, and the answers of every run; `show` formats words."""
    lines: list[str] = []
    for number, same in enumerate(zip(*runs.values(), strict=True), start=1):
        first = same[0]
        topic = "" if first.topic is None else f" {show(first.topic.lower())}"
        lines += [f"## {number}.{topic}", ""]
        before = [f"- {_known(name, show)}: {show(text)}" for name, text in first.context]
        lines += before or ["- (the dialog begins)"]
        reference = f"**{show(first.reference.text)}**{_in_brackets(first.reference, show)}"
        speaker = _known(first.speaker, show)
        lines += ["", f"{speaker}, reference: {reference}", ""]
        for name, conversation in zip(runs, same, strict=True):
            lines += [f"{speaker}, {name}:", ""]
            lines += [*numbered(conversation.answers, show), ""]
    return "\n".join(lines)
