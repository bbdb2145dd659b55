"""Scores of answers, beside those of answers that ignore the context and of other dialogs' references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cvae.data.dialogs import UNKNOWN, DialogCorpus
from cvae.data.references import References
from cvae.data.text import order
from cvae.data.vectors import Vectors
from cvae.evaluation import dialog_metrics
from cvae.evaluation.acts import ActClassifier

Answers = Sequence[Sequence[Sequence[int]]]  # several per context, as word numbers


@dataclass(frozen=True)
class Scorer:
    """Scores answers to N contexts; `partners` [N] are contexts of other dialogs (`another_dialog`).

    Without a classifier, where the corpus has no dialog acts, there is no score of these.
    """

    words: Sequence[str]
    classifier: ActClassifier | None
    vectors: Vectors
    references: Sequence[References]
    partners: np.ndarray | None

    def __call__(self, answers: Answers) -> dict[str, float]:
        """Return scores against references, `*_minus_permuted`, and what describes the answers alone.

        *_minus_permuted: the score minus that against the partners' references, 0 where answers ignore their
        context. acts: different dialog acts among the answers to a context.
        """
        flat = [answer for candidates in answers for answer in candidates]
        acts = None if self.classifier is None else self.classifier(flat).reshape(len(answers), -1)
        values = self.agreement(answers, acts, self.references)
        if self.partners is not None:
            permuted = self.agreement(answers, acts, [self.references[place] for place in self.partners])
            values |= {f"{name}_minus_permuted": values[name] - other for name, other in permuted.items()}
        values |= dialog_metrics.distinct(answers)
        if acts is not None:
            values["acts"] = float(np.mean([len(set(row)) for row in acts.tolist()]))
        return values | {"answer_words": float(np.mean([len(answer) for answer in flat]))}

    def agreement(
        self, answers: Answers, acts: np.ndarray | None, references: Sequence[References]
    ) -> dict[str, float]:
        """Return all scores of answers with the acts [N, S], if any, against references of the N contexts.

        act_hit: the share of the references' acts that are among the answers', absent where none is known.
        """
        right = [part.responses for part in references]
        texts = [[[self.words[number] for number in answer] for answer in row] for row in answers]
        hits = [] if acts is None else act_hits(acts, references)
        return (
            dialog_metrics.bleu(answers, right)
            | dialog_metrics.sacrebleu(texts, [part.words for part in references])
            | dialog_metrics.bag_similarity(answers, right, *self.vectors)
            | ({"act_hit": float(np.mean(hits))} if hits else {})
        )


def act_hits(acts: np.ndarray, references: Sequence[References]) -> list[float]:
    """Return the share of each context's known acts of references that are among its answers' [N, S]."""
    return [
        float(np.isin(known, row).mean())
        for part, row in zip(references, acts, strict=True)
        if len(known := [act for act in part.acts if act != UNKNOWN])
    ]


def another_dialog(dialogs: np.ndarray) -> np.ndarray | None:
    """Return for each of N contexts, from these dialogs [N], one of another dialog: a permutation [N].

    It depends on `dialogs` only. None where one dialog has more than half of the contexts, so that there is
    no such permutation.
    """
    _, dialog, sizes = np.unique(dialogs, return_inverse=True, return_counts=True)
    if 2 * max(sizes) > len(dialogs):
        return None
    mixed = order(len(dialogs), seed=0, epoch=1)
    ranked = mixed[np.argsort(order(len(sizes), seed=0, epoch=1)[dialog[mixed]], kind="stable")]
    partners = np.empty_like(ranked)
    partners[ranked] = np.roll(ranked, -max(sizes))  # dialogs lie in blocks, none longer
    return partners


def random_answers(train: DialogCorpus, contexts: int, samples: int, seed: int) -> Answers:
    """Return `samples` random responses of the train split for each context, whatever it is."""
    draws = np.random.default_rng(seed).integers(len(train), size=(contexts, samples))
    return [train.sentences(row) for row in draws]


def constant_answers(train: DialogCorpus, contexts: int, samples: int) -> Answers:
    """Return the commonest response of the train split, the first of equals, to every context."""
    counts = Counter(map(tuple, train.words(np.arange(len(train)))))
    return [[train.numbers(counts.most_common(1)[0][0])] * samples] * contexts


def scores(scorer: Scorer, answers: Answers, train: DialogCorpus, seed: int) -> dict[str, float]:
    """Return the scores of answers and, as random/* and constant/*, of as many that ignore the context."""
    size = len(answers), len(answers[0])
    blind = {"random": random_answers(train, *size, seed), "constant": constant_answers(train, *size)}
    return scorer(answers) | {
        f"{name}/{key}": value for name, others in blind.items() for key, value in scorer(others).items()
    }
