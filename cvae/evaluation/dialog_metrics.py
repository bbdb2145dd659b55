"""How good and how diverse several answers to a context are: pure functions of words or their numbers.

An answer or reference is a sequence of words. A context has N answers and R references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Sentence = Sequence[Any]
BLEU_ORDERS = 4


def ngrams(sentence: Sentence, n: int) -> list[tuple[Any, ...]]:
    """Return the n-grams of a sentence."""
    return [tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)]


def smoothed_bleu(answer: Sentence, reference: Sentence) -> list[float]:
    """Return BLEU-1 to BLEU-4 of a sentence as the authors score it (protocol B4); above 1 where perfect.

    NLTK's sentence_bleu with method7 as of NLTK 3.9.1 (the authors' 3.4 smooths less): methods 4 and 5 of
    Chen and Cherry (2014) in turn, over all four orders. `sacrebleu` is the sound score.
    """
    matched, total = [], []
    for n in range(1, BLEU_ORDERS + 2):
        own = Counter(ngrams(answer, n))
        matched.append((own & Counter(ngrams(reference, n))).total())
        total.append(max(1, own.total()))
    if not matched[0]:
        return [0.0] * BLEU_ORDERS
    precision = [hits / count for hits, count in zip(matched, total, strict=True)]
    zeros = 0
    for i in range(BLEU_ORDERS):
        if not matched[i]:
            zeros += 1
            precision[i] = math.log(len(answer)) / (5 * 2**zeros) / total[i]
    scores, logs, smoothed = [], 0.0, precision[0] + 1
    brevity = min(1.0, math.exp(1 - len(reference) / len(answer)))
    for i in range(BLEU_ORDERS):
        smoothed = (smoothed + precision[i] + precision[i + 1]) / 3
        logs += math.log(smoothed)
        scores.append(brevity * math.exp(logs / (i + 1)))
    return scores


class Agreement:
    """Precision, recall and F1 of answers and references by a similarity, over contexts (protocol B4).

    precision: the mean over a context's answers of the best similarity to a reference; recall: the mean over
    its references of the best similarity to an answer; both averaged over contexts, F1 from the averages.
    """

    def __init__(self) -> None:
        self.sums, self.contexts = np.zeros(2), 0

    def add(self, similarity: np.ndarray) -> None:
        """Add a context's similarities [N, R]; one without answers or references is skipped, as theirs."""
        if similarity.size:
            self.sums += similarity.max(1).mean(), similarity.max(0).mean()
            self.contexts += 1

    def values(self, name: str) -> dict[str, float]:
        """Return name_precision, name_recall and name_f1; 0 where no context counted."""
        precision, recall = (self.sums / max(1, self.contexts)).tolist()
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}


def bleu(answers: Sequence[Sequence[Sentence]], references: Sequence[Sequence[Sentence]]) -> dict[str, float]:
    """Return bleu1 to bleu4 by `smoothed_bleu`, each as precision, recall and F1."""
    agreements = {f"bleu{n}": Agreement() for n in range(1, BLEU_ORDERS + 1)}
    for candidates, right in zip(answers, references, strict=True):
        scores = np.array([[smoothed_bleu(a, r) for r in right] for a in candidates])
        for agreement, similarity in zip(agreements.values(), np.moveaxis(scores, -1, 0), strict=True):
            agreement.add(similarity)
    return _values(agreements)


def _values(agreements: dict[str, Agreement]) -> dict[str, float]:
    """Return the values of all agreements."""
    return {key: value for name, part in agreements.items() for key, value in part.values(name).items()}


def sacrebleu(
    answers: Sequence[Sequence[Sequence[str]]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Return BLEU-4 by the library of that name, which others can compare with: all values in [0, 1].

    sacrebleu_*: sentence BLEU (exponential smoothing, effective order), as precision, recall and F1.
    corpus_bleu: corpus BLEU of all answers together, each against its context's references. These are in
    their own words, so that scores do not depend on the vocabulary and an `<unk>` matches nothing.
    """
    from sacrebleu.metrics import BLEU

    sentence, corpus = BLEU(tokenize="none", effective_order=True), BLEU(tokenize="none")
    agreement, hypotheses, targets = Agreement(), [], []
    for candidates, right in zip(answers, references, strict=True):
        texts, goals = [" ".join(a) for a in candidates], [" ".join(r) for r in right]
        scores = [[sentence.sentence_score(a, [r]).score / 100 for r in goals] for a in texts]
        agreement.add(np.array(scores))
        hypotheses += texts
        targets += [goals] * len(texts)
    most = max(map(len, targets))
    columns: Any = [[row[i] if i < len(row) else None for row in targets] for i in range(most)]
    score = corpus.corpus_score(hypotheses, columns).score / 100
    return agreement.values("sacrebleu") | {"corpus_bleu": score}


def bag_similarity(
    answers: Sequence[Sequence[Sequence[int]]],
    references: Sequence[Sequence[Sequence[int]]],
    vectors: np.ndarray,
    known: np.ndarray,
) -> dict[str, float]:
    """Return a_bow, e_bow and greedy, each as precision, recall and F1, from word vectors [V, D].

    a_bow and e_bow: (cosine + 1) / 2, as the authors (protocol B4), so 0.5 where sentences are unrelated; of
    the average of the word vectors, and of the extreme value in each dimension. greedy: `greedy`, a cosine.
    Words that are not `known` [V] and sentences without a known word are skipped.
    """
    agreements = {name: Agreement() for name in ("a_bow", "e_bow", "greedy")}
    for sides in zip(answers, references, strict=True):
        embedded = [[vectors[row] for row in _known(side, known)] for side in sides]
        for name, pool in {"a_bow": average, "e_bow": extrema}.items():
            pooled = ([pool(words) for words in side] for side in embedded)
            first, second = (_units(np.array(side).reshape(-1, vectors.shape[1])) for side in pooled)
            agreements[name].add((first @ second.T + 1) / 2)
        units = [[rows for words in side if len(rows := _units(words))] for side in embedded]
        agreements["greedy"].add(np.array([[greedy(a, r) for r in units[1]] for a in units[0]]))
    return _values(agreements)


def greedy(answer: np.ndarray, reference: np.ndarray) -> float:
    """Return the greedy matching (Rus and Lintean 2012) of unit word vectors [S, D] and [T, D].

    As Liu et al. (2016): each word's highest cosine with one of the other sentence, averaged over the words
    of a sentence, then over the two sentences.
    """
    cosines = answer @ reference.T
    return float(cosines.max(1).mean() + cosines.max(0).mean()) / 2


def average(words: np.ndarray) -> np.ndarray:
    """Return the mean of word vectors [T, D]: [D]."""
    return words.mean(0)


def extrema(words: np.ndarray) -> np.ndarray:
    """Return the value of each dimension that is furthest from 0, of equals the higher: [D] of [T, D]."""
    highest, lowest = words.max(0), words.min(0)
    return np.where(np.abs(lowest) <= highest, highest, lowest)


def _known(sentences: Iterable[Sequence[int]], known: np.ndarray) -> list[np.ndarray]:
    """Return the numbers of the known words of each sentence that has one."""
    rows = (np.array(sentence, dtype=np.int64) for sentence in sentences)
    return [row[known[row]] for row in rows if known[row].any()]


def _units(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors [N, D] that are not 0, scaled to length 1."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms, norms, 1))[norms.ravel() > 0]


def distinct(answers: Sequence[Sequence[Sentence]]) -> dict[str, float]:
    """Return distinct1 and distinct2: different n-grams over the number of words generated (Li et al. 2016).

    Over all answers, and, as distinct1_context and distinct2_context, over the answers to one context,
    averaged over contexts with a word in them. different: different answers to a context.
    """
    values = {"different": float(np.mean([len({tuple(a) for a in candidates}) for candidates in answers]))}
    words = [sum(map(len, candidates)) for candidates in answers]
    for n in (1, 2):
        grams = [{gram for answer in candidates for gram in ngrams(answer, n)} for candidates in answers]
        shares = [len(own) / count for own, count in zip(grams, words, strict=True) if count]
        values[f"distinct{n}"] = len(set().union(*grams)) / max(1, sum(words))
        values[f"distinct{n}_context"] = float(np.mean(shares)) if shares else 0.0
    return values
