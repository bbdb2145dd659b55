"""Dialogs to read: contexts with their reference and several answers, of one run or of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from cvae.config.messages import listing
from cvae.data.dialogs import DialogCorpus, DialogSplits, ResponseBatch
from cvae.data.switchboard import SPEAKERS, STRANGER, Dialog, Utterance, tokenise
from cvae.data.text import fixed_subset
from cvae.errors import UserError
from cvae.evaluation.acts import ActClassifier


class AnsweringTask(Protocol):
    """A task with a model of dialog responses and a classifier of dialog acts."""

    data: DialogSplits

    @property
    def device(self) -> torch.device: ...

    @property
    def classifier(self) -> ActClassifier: ...

    def generator(self, seed: int | None = None) -> torch.Generator: ...

    def answers(self, split: str, responses: np.ndarray, seed: int | None) -> list[list[list[int]]]: ...

    def answer(self, batch: ResponseBatch, noise: torch.Generator) -> list[list[list[int]]]: ...


class Said(NamedTuple):
    """An utterance and its dialog act."""

    text: str
    act: str


class Conversation(NamedTuple):
    """A context (speakers and words, oldest first), the responder, the reference, and the answers."""

    topic: str
    context: list[tuple[str, str]]
    speaker: str
    reference: Said
    answers: list[Said]


def conversations(task: AnsweringTask, split: str, count: int, seed: int = 0) -> list[Conversation]:
    """Return `count` responses of a split, the same for every run on it, and the model's answers.

    The act of a reference is the data's, that of an answer the classifier's.
    """
    corpus, words = task.data.corpora[split], task.data.vocabulary.words
    topics, acts = [*task.data.topics, "unknown"], [*task.data.acts, "unknown"]
    rows = np.sort(fixed_subset(count, len(corpus)))
    rated = []
    for row, candidates in zip(rows, task.answers(split, rows, seed), strict=True):
        place = corpus.places[row]
        before = [p for p in range(corpus.starts[row], place) if corpus.speakers[p] >= 0]
        texts = [" ".join(words[n] for n in corpus.utterance(p)) for p in [*before, place]]
        names = [_name(corpus.speakers[p]) for p in [*before, place]]
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


def answers(task: AnsweringTask, context: Sequence[str], topic: str = "", seed: int = 0) -> list[Said]:
    """Return B's answers to a typed context, whose utterances are A's and B's in turn, the last one A's.

    Both speakers are the train split's average person; `topic` is one of its topics, or empty for unknown.
    """
    train = task.data.corpora["train"]
    age, education, *sex = train.people[:, :STRANGER].mean((0, 1)).tolist()
    person = (age, education, sex[0], sex[1])
    turns = [(len(context) - 1 - place) % 2 for place in range(len(context))]
    typed = [Utterance(turn, tokenise(text), "") for turn, text in zip(turns, context, strict=True)]
    dialog = Dialog(topic, [person, person], [*typed, Utterance(1, [], "")])
    batch = DialogCorpus([dialog], train.labels, train.config, task.device).batch(np.array([len(typed)]))
    return _said(task, task.answer(batch, task.generator(seed))[0])


def chat(task: AnsweringTask, lines: Iterable[str], topic: str = "", seed: int = 0) -> Iterator[str]:
    """Yield what to print before the first line and after each: the answers to the typed line.

    A number chooses another answer than the first; an empty line begins a new dialog. Raises UserError for
    a topic that the train split lacks, whatever its case.
    """
    topics = {name.casefold(): name for name in task.data.topics}
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
            yield "\n".join(f"{n}. {said.text} ({said.act})" for n, said in enumerate(choices, start=1))


def plain(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as plain dicts, for JSON."""
    return conversation._asdict() | {
        "reference": conversation.reference._asdict(),
        "answers": [said._asdict() for said in conversation.answers],
    }


def _said(task: AnsweringTask, candidates: Sequence[Sequence[int]]) -> list[Said]:
    """Return answers, given as word numbers, with the classifier's acts."""
    words, acts = task.data.vocabulary.words, task.data.acts
    texts = (" ".join(words[number] for number in answer) for answer in candidates)
    return [Said(text, acts[act]) for text, act in zip(texts, task.classifier(candidates), strict=True)]


def _name(speaker: int) -> str:
    """Return A, B, and for others ?, ?2, ?3."""
    if 0 <= speaker < STRANGER:
        return SPEAKERS[speaker]
    return "?" if speaker <= STRANGER else f"?{speaker - STRANGER + 1}"


def page(runs: dict[str, list[Conversation]], show: Callable[[str], str] = str) -> str:
    """Return each context once, its reference, and the answers of every run; `show` formats words."""
    lines: list[str] = []
    for number, same in enumerate(zip(*runs.values(), strict=True), start=1):
        first = same[0]
        lines += [f"## {number}. {show(first.topic.lower())}", ""]
        lines += [f"- {name}: {show(text)}" for name, text in first.context] or ["- (the dialog begins)"]
        reference = f"**{show(first.reference.text)}** ({show(first.reference.act)})"
        lines += ["", f"{first.speaker}, reference: {reference}", ""]
        for name, conversation in zip(runs, same, strict=True):
            lines += [f"{first.speaker}, {name}:", ""]
            answers = enumerate(conversation.answers, start=1)
            lines += [f"{n}. {show(said.text)} ({show(said.act)})" for n, said in answers]
            lines.append("")
    return "\n".join(lines)
