"""How answers score, and beside them answers that know no context, and the references of other dialogs."""

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

Answers = Sequence[Sequence[Sequence[int]]]  # of each context some, as numbers of words


@dataclass(frozen=True)
class Scorer:
    """Scores answers to N contexts; see `cvae.evaluation.dialog_metrics`.

    references: those of each context. partners [N]: for each a context of another dialog, a permutation;
    None where there is none.
    """

    words: Sequence[str]
    classifier: ActClassifier
    vectors: Vectors
    references: Sequence[References]
    partners: np.ndarray | None

    def __call__(self, said: Answers) -> dict[str, float]:
        """Scores with a reference, `*_minus_permuted`, and what describes the answers alone.

        *_minus_permuted is the score less that against the partners' references: what an answer has of its
        own context, 0 where it has nothing. acts: the different dialog acts among the answers to a context.
        """
        acts = self.classifier([one for some in said for one in some]).reshape(len(said), -1)
        found = self.agreement(said, acts, self.references)
        if self.partners is not None:
            permuted = self.agreement(said, acts, [self.references[place] for place in self.partners])
            found |= {
                f"{name}_minus_permuted": found[name] - permuted[name] for name in found if name in permuted
            }
        return (
            found
            | dialog_metrics.distinct(said)
            | {
                "acts": float(np.mean([len(set(done)) for done in acts.tolist()])),
                "answer_words": float(np.mean([len(one) for some in said for one in some])),
            }
        )

    def agreement(self, said: Answers, acts: np.ndarray, wanted: Sequence[References]) -> dict[str, float]:
        """All scores of answers, which do `acts` [N, S], against references of each of the N contexts.

        act_hit: the share of the references' acts that are among the answers', absent where none is known.
        """
        right = [references.responses for references in wanted]
        spoken = [[[self.words[number] for number in one] for one in some] for some in said]
        hits = [
            np.isin(known, done).mean()
            for references, done in zip(wanted, acts, strict=True)
            if len(known := [act for act in references.acts if act != UNKNOWN])
        ]
        return (
            dialog_metrics.bleu(said, right)
            | dialog_metrics.sacrebleu(spoken, [references.words for references in wanted])
            | dialog_metrics.bag_similarity(said, right, *self.vectors)
            | ({"act_hit": float(np.mean(hits))} if hits else {})
        )


def another_dialog(dialogs: np.ndarray) -> np.ndarray | None:
    """For each of N contexts, of these dialogs [N], one of another dialog: a permutation [N].

    It depends on nothing but `dialogs`. None where one dialog has more than half of the contexts, so that
    there is no such permutation.
    """
    _, dialog, sizes = np.unique(dialogs, return_inverse=True, return_counts=True)
    if 2 * max(sizes) > len(dialogs):
        return None
    mixed = order(len(dialogs), seed=0, epoch=1)
    ranked = mixed[np.argsort(order(len(sizes), seed=0, epoch=1)[dialog[mixed]], kind="stable")]
    partners = np.empty_like(ranked)
    partners[ranked] = np.roll(ranked, -max(sizes))  # the dialogs lie in blocks, none longer than that
    return partners


def random_answers(train: DialogCorpus, contexts: int, samples: int, seed: int) -> Answers:
    """`samples` responses of the train split for each context, drawn at random, whatever the context."""
    draws = np.random.default_rng(seed).integers(len(train), size=(contexts, samples))
    return [train.sentences(row) for row in draws]


def constant_answers(train: DialogCorpus, contexts: int, samples: int) -> Answers:
    """The commonest response of the train split, the first in the file of several, to every context."""
    counts = Counter(map(tuple, train.words(np.arange(len(train)))))
    return [[train.numbers(counts.most_common(1)[0][0])] * samples] * contexts


def scores(score: Scorer, said: Answers, train: DialogCorpus, seed: int) -> dict[str, float]:
    """Those of answers and, as random/* and constant/*, of as many that know no context."""
    size = len(said), len(said[0])
    blind = {"random": random_answers(train, *size, seed), "constant": constant_answers(train, *size)}
    return score(said) | {
        f"{name}/{key}": value for name, found in blind.items() for key, value in score(found).items()
    }
