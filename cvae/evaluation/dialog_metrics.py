"""How good and how diverse several answers to a context are: pure functions of words or their numbers.

An answer or reference is a sequence of words; N answers stand against R references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Sentence = Sequence[Any]
ORDERS = 4


def ngrams(sentence: Sentence, n: int) -> list[tuple[Any, ...]]:
    """Its n-grams, in order."""
    return [tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)]


def smoothed_bleu(answer: Sentence, reference: Sentence) -> list[float]:
    """BLEU-1 to BLEU-4 of a sentence as the authors score it (protocol B4); above 1 where it is perfect.

    NLTK's sentence_bleu with SmoothingFunction().method7 as of NLTK 3.9.1 (NLTK 3.4, then current, smooths
    some less): methods 4 and 5 of Chen and Cherry (2014) one after the other, on all four orders whichever
    is asked for. Made for the comparison with the authors; `sacrebleu` is the sound one.
    """
    matched, total = [], []
    for n in range(1, ORDERS + 2):
        own = Counter(ngrams(answer, n))
        matched.append((own & Counter(ngrams(reference, n))).total())
        total.append(max(1, own.total()))
    if not matched[0]:
        return [0.0] * ORDERS
    precision = [hits / count for hits, count in zip(matched, total, strict=True)]
    zeros = 0
    for i in range(ORDERS):
        if not matched[i] and len(answer) > 1:
            zeros += 1
            precision[i] = math.log(len(answer)) / (5 * 2**zeros) / total[i]
    scores, logs, smoothed = [], 0.0, precision[0] + 1
    brevity = min(1.0, math.exp(1 - len(reference) / len(answer)))
    for i in range(ORDERS):
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
        """One context, [N, R]; one without answers or references is left out, as by the authors."""
        if similarity.size:
            self.sums += similarity.max(1).mean(), similarity.max(0).mean()
            self.contexts += 1

    def values(self, name: str) -> dict[str, float]:
        """name_precision, name_recall and name_f1; 0 where no context counted."""
        precision, recall = (self.sums / max(1, self.contexts)).tolist()
        both = precision + recall
        f1 = 2 * precision * recall / both if both else 0.0
        return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}


def bleu(answers: Sequence[Sequence[Sentence]], references: Sequence[Sequence[Sentence]]) -> dict[str, float]:
    """bleu1 to bleu4 by `smoothed_bleu`, each as precision, recall and F1."""
    found = [Agreement() for _ in range(ORDERS)]
    for said, wanted in zip(answers, references, strict=True):
        scores = np.array([[smoothed_bleu(a, r) for r in wanted] for a in said])
        for agreement, similarity in zip(found, np.moveaxis(scores, -1, 0), strict=True):
            agreement.add(similarity)
    values = [agreement.values(f"bleu{n}") for n, agreement in enumerate(found, start=1)]
    return {key: value for named in values for key, value in named.items()}


def sacrebleu(
    answers: Sequence[Sequence[Sequence[str]]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """BLEU-4 by the library of that name, which others can compare with: all values in [0, 1].

    `references` are in their own words, not mapped to `<unk>` and not cut: so the score of an answer does not
    depend on the vocabulary, and an `<unk>` in it matches nothing.

    sacrebleu_*: its sentence BLEU (exponential smoothing, effective order), as precision, recall and F1.
    corpus_bleu: its corpus BLEU of all answers together, each against its context's references.
    """
    from sacrebleu.metrics import BLEU

    sentence, corpus = BLEU(tokenize="none", effective_order=True), BLEU(tokenize="none")
    found, hypotheses, wanted = Agreement(), [], []
    for said, right in zip(answers, references, strict=True):
        texts, targets = [" ".join(a) for a in said], [" ".join(r) for r in right]
        found.add(np.array([[sentence.sentence_score(a, [r]).score / 100 for r in targets] for a in texts]))
        hypotheses += texts
        wanted += [targets] * len(texts)
    most = max(map(len, wanted))
    columns = [[row[i] if i < len(row) else None for row in wanted] for i in range(most)]
    return found.values("sacrebleu") | {"corpus_bleu": corpus.corpus_score(hypotheses, columns).score / 100}


def bag_similarity(
    answers: Sequence[Sequence[Sequence[int]]],
    references: Sequence[Sequence[Sequence[int]]],
    vectors: np.ndarray,
    known: np.ndarray,
) -> dict[str, float]:
    """a_bow, e_bow and greedy, each as precision, recall and F1, from word vectors [V, D].

    a_bow and e_bow: (cosine + 1) / 2, as the authors (protocol B4), so 0.5 where sentences are unrelated; of
    the average of the word vectors, and of the extreme value in each dimension. greedy: `greedy`, a cosine.
    Words that are not `known` [V] are skipped, sentences without a known word are left out.
    """
    found = {name: Agreement() for name in ("a_bow", "e_bow", "greedy")}
    for sides in zip(answers, references, strict=True):
        said, wanted = ([vectors[row] for row in _known(side, known)] for side in sides)
        for name, pool in {"a_bow": average, "e_bow": extrema}.items():
            pooled = ([pool(words) for words in side] for side in (said, wanted))
            first, second = (_units(np.array(side).reshape(-1, vectors.shape[1])) for side in pooled)
            found[name].add((first @ second.T + 1) / 2)
        units = ([_units(words) for words in side] for side in (said, wanted))
        said, wanted = ([words for words in side if len(words)] for side in units)
        found["greedy"].add(np.array([[greedy(a, r) for r in wanted] for a in said]))
    return {key: value for name, agreement in found.items() for key, value in agreement.values(name).items()}


def greedy(answer: np.ndarray, reference: np.ndarray) -> float:
    """Greedy matching (Rus and Lintean 2012) of unit word vectors [S, D] and [T, D], as Liu et al. (2016).

    The highest cosine of each word with a word of the other sentence, averaged over the words of a sentence,
    then over the two sentences.
    """
    cosines = answer @ reference.T
    return float(cosines.max(1).mean() + cosines.max(0).mean()) / 2


def average(words: np.ndarray) -> np.ndarray:
    """The mean of word vectors [T, D]: [D]."""
    return words.mean(0)


def extrema(words: np.ndarray) -> np.ndarray:
    """The value of each dimension that is furthest from 0, the higher one if two are: [D] of [T, D]."""
    highest, lowest = words.max(0), words.min(0)
    return np.where(np.abs(lowest) <= highest, highest, lowest)


def _known(sentences: Iterable[Sequence[int]], known: np.ndarray) -> list[np.ndarray]:
    """The numbers of the known words of each sentence that has one."""
    rows = (np.array(sentence, dtype=np.int64) for sentence in sentences)
    return [row[known[row]] for row in rows if known[row].any()]


def _units(vectors: np.ndarray) -> np.ndarray:
    """Those of some vectors [N, D] that are not 0, at length 1."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms, norms, 1))[norms.ravel() > 0]


def distinct(answers: Sequence[Sequence[Sentence]]) -> dict[str, float]:
    """distinct1 and distinct2: different n-grams over the number of words generated (Li et al. 2016).

    Of all answers of the set, and, as distinct1_context and distinct2_context, of the answers to one context,
    averaged over contexts with a word in them. different: different answers to a context.
    """
    found = {"different": float(np.mean([len({tuple(a) for a in said}) for said in answers]))}
    words = [sum(map(len, said)) for said in answers]
    for n in (1, 2):
        grams = [{gram for answer in said for gram in ngrams(answer, n)} for said in answers]
        shares = [len(own) / count for own, count in zip(grams, words, strict=True) if count]
        found[f"distinct{n}"] = len(set().union(*grams)) / max(1, sum(words))
        found[f"distinct{n}_context"] = float(np.mean(shares)) if shares else 0.0
    return found
