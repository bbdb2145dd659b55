"""How answers are scored, and read."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
import json
import re
import runpy
import shutil
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import data
from cvae.cli import sample
from cvae.config.schema import DialogData
from cvae.data import references, vectors
from cvae.data.dialog_records import tokenise
from cvae.data.dialogs import UNKNOWN, DialogCorpus, DialogSplits
from cvae.data.references import References
from cvae.data.text import fixed_subset
from cvae.data.vocabulary import SPECIALS, UNK, Vocabulary
from cvae.errors import UserError
from cvae.evaluation import chat, dialog_metrics
from cvae.evaluation.acts import ActClassifier
from cvae.evaluation.dialog_scores import (
    Scorer,
    act_hits,
    another_dialog,
    constant_answers,
    random_answers,
    scores,
)
from cvae.evaluation.samples import literal
from cvae.models.gaussian import Gaussian
from cvae.models.objective import Terms
from cvae.report import tables
from cvae.runs.folder import RunFolder
from cvae.runs.provenance import describe
from cvae.runs.reader import read_run
from cvae.schedules import Autoencoder, Constant
from cvae.tasks import dialog
from cvae.tasks.base import Task
from cvae.tasks.dialog import DialogTask
from cvae.training.run import prepare, reopen, run
from tests.helpers import CPU, ROOT

HERE = ROOT / "tests/dialogs"
DATA = DialogData(
    name="switchboard",
    path=str(HERE),
    vocabulary=60,
    max_tokens=40,
    window=10,
    held_out=0.2,
    consecutive=3,
)
SMALL = (
    *("task=switchboard", f"dataset.path={HERE}", "dataset.held_out=0.2", "dataset.vocabulary=60"),
    *("model.embed=5", "model.utterance=4", "model.context=6", "model.topic=2", "model.latent=3"),
    *("model.prior=4", "model.decoder=7", "model.bow_hidden=4", "model.init=0.5"),
    *("task.samples=3", "task.iw_samples=2", "task.examples=4", "task.contexts=9"),
    *("train.batch_size=6", "train.epochs=1", "train.log_every=4"),
)


@pytest.fixture(scope="module")
def splits() -> DialogSplits:
    return data.build(DATA, CPU)


# ---- BLEU ----

# protocol B4: NLTK 3.9.1, reference "i do not know"
TABLE = {
    "i do not know": (1.3333, 1.2172, 1.1539, 1.0106),
    "i know": (0.3764, 0.2281, 0.1397, 0.0855),
    "i think so too yes": (0.4801, 0.2959, 0.1885, 0.1211),
    "i": (0.0498, 0.0287, 0.0166, 0.0096),
    "no": (0, 0, 0, 0),
    "": (0, 0, 0, 0),
}


@pytest.mark.parametrize("answer", TABLE)
def test_bleu_is_the_authors(answer):
    found = dialog_metrics.smoothed_bleu(answer.split(), ["i", "do", "not", "know"])
    assert found == pytest.approx(TABLE[answer], abs=6e-5)


def test_bleu_is_nltks():
    score = pytest.importorskip("nltk.translate.bleu_score")
    rng = np.random.default_rng(0)
    for _ in range(200):
        answer, reference = (rng.integers(0, 5, rng.integers(1, 12)).tolist() for _ in range(2))
        found = dialog_metrics.smoothed_bleu(answer, reference)
        for n in range(1, 5):
            weights = [1 / n] * n + [0] * (4 - n)
            smooth = score.SmoothingFunction().method7
            wanted = score.sentence_bleu([reference], answer, weights, smoothing_function=smooth)
            assert found[n - 1] == pytest.approx(float(wanted), abs=1e-12)


def test_precision_and_recall_are_over_answers_and_references():
    found = dialog_metrics.Agreement()
    found.add(np.array([[0.2, 0.8], [0.4, 0.1], [0.0, 0.0]]))  # three answers, two references
    found.add(np.array([[1.0]]))
    found.add(np.empty((0, 2)))  # left out
    precision, recall = ((0.8 + 0.4 + 0.0) / 3 + 1) / 2, ((0.4 + 0.8) / 2 + 1) / 2
    wanted = {"x_precision": precision, "x_recall": recall}
    wanted["x_f1"] = 2 * precision * recall / (precision + recall)
    assert found.values("x") == pytest.approx(wanted)
    assert dialog_metrics.Agreement().values("x") == {"x_precision": 0, "x_recall": 0, "x_f1": 0}


def test_sacrebleu_is_bounded_and_takes_as_many_references_as_there_are():
    said = [[["i", "do", "not", "know"], ["no"]], [["that", "is", "right"], ["yes", "it", "is"]]]
    right = [[["i", "do", "not", "know"]], [["yes", "it", "is"], ["that", "is", "right"]]]
    found = dialog_metrics.sacrebleu(said, right)
    assert found["sacrebleu_precision"] == pytest.approx((0.5 + 1) / 2)
    assert found["sacrebleu_recall"] == pytest.approx(1)
    assert 0.5 < found["corpus_bleu"] < 1
    every = dialog_metrics.sacrebleu([[one[0]] for one in said], right)
    assert every["corpus_bleu"] == pytest.approx(1)


# ---- vectors, diversity ----


def test_sentences_are_compared_by_average_and_extrema():
    words = np.array([[3.0, -1.0], [-2.0, 1.0], [-4.0, 0.0]])
    assert dialog_metrics.average(words).tolist() == [-1, 0]
    assert dialog_metrics.extrema(words).tolist() == [-4, 1]  # of 1 and -1 the higher
    table = np.array([[0, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    known = np.array([False, True, True, True])
    found = dialog_metrics.bag_similarity([[[1], [2, 0]]], [[[1]]], table, known)
    assert found["a_bow_precision"] == pytest.approx((1 + 0.5) / 2)
    assert found["a_bow_recall"] == pytest.approx(1)
    assert dialog_metrics.bag_similarity([[[0]]], [[[1]]], table, known)["a_bow_f1"] == 0  # nothing known
    assert dialog_metrics.bag_similarity([[[1]]], [[[3]]], table, known)["e_bow_f1"] == 0  # opposite
    opposed = dialog_metrics.bag_similarity([[[1, 3], [1]]], [[[1]]], table, known)
    # their average has no direction and is like nothing, not half like all; their extreme and each word have
    assert (opposed["a_bow_precision"], opposed["e_bow_precision"]) == (1, 1)
    assert opposed["greedy_precision"] == pytest.approx(((0 + 1) / 2 + 1) / 2)
    still = dialog_metrics.bag_similarity([[[0], [1, 0]]], [[[1]]], table, known | True)
    assert (still["e_bow_precision"], still["greedy_precision"]) == (1, 1)  # a vector of 0 is no word


def test_greedy_matching_is_that_of_its_paper():
    rng = np.random.default_rng(0)
    table, known = rng.normal(size=(9, 4)), np.arange(9) > 1
    said, right = [[2, 3, 0, 4], [5]], [[6, 3], [7, 8, 8, 2], [1]]  # 0 and 1 are unknown, and so is [1]

    def closest(words: list[int], others: list[int]) -> float:
        cosines = [
            [
                table[w] @ table[o] / np.linalg.norm(table[w]) / np.linalg.norm(table[o])
                for o in others
                if o > 1
            ]
            for w in words
            if w > 1
        ]
        return np.mean([max(row) for row in cosines])

    both = np.array([[(closest(a, r) + closest(r, a)) / 2 for r in right[:2]] for a in said])
    found = dialog_metrics.bag_similarity([said], [right], table, known)
    assert found["greedy_precision"] == pytest.approx(both.max(1).mean())
    assert found["greedy_recall"] == pytest.approx(both.max(0).mean())
    same = dialog_metrics.bag_similarity([[[2, 3]]], [[[3, 2]]], table, known)
    assert same["greedy_f1"] == pytest.approx(1) == same["a_bow_f1"]
    opposite = np.array([[1.0, 0], [-1.0, 0]])
    apart = dialog_metrics.bag_similarity([[[0]]], [[[1]]], opposite, np.array([True, True]))
    assert (apart["greedy_precision"], apart["a_bow_precision"]) == (-1, 0)  # a cosine, and (cosine + 1) / 2


def test_distinct_counts_ngrams_over_words_within_a_context_and_over_the_set():
    found = dialog_metrics.distinct([[[1, 2], [1, 2], [3]], [[1], []]])
    assert found["different"] == 2
    assert found["distinct1"] == 3 / 6 and found["distinct2"] == 1 / 6
    assert found["distinct1_context"] == pytest.approx((3 / 5 + 1) / 2)
    assert found["distinct2_context"] == pytest.approx((1 / 5 + 0) / 2)
    wordless = dialog_metrics.distinct([[[1, 2]], [[], []]])  # a context without a word counts nowhere
    assert (wordless["distinct1_context"], wordless["distinct2_context"]) == (1, 1 / 2)
    silent = dialog_metrics.distinct([[[]], [[]]])
    assert silent == dict.fromkeys(silent, 0) | {"different": 1}


# ---- beside what knows no context ----


def scorer(splits: DialogSplits, split: str = "test") -> Scorer:
    """Of a split's own responses, and the reference of each its own."""
    task = types.SimpleNamespace(data=splits, settings=types.SimpleNamespace(references=None))
    corpus, train = splits.corpora[split], splits.corpora["train"]
    right = list(DialogTask.references(task, split).values())
    sentences = train.sentences(np.arange(len(train)))
    table = vectors.cooccurrence(sentences, len(splits.vocabulary), 4)
    classifier = ActClassifier(train, len(splits.vocabulary), len(splits.acts))
    partners = another_dialog(corpus.dialogs[corpus.places])
    return Scorer(splits.vocabulary.words, classifier, table, right, partners)


def test_an_answer_scores_the_same_whatever_the_vocabulary():
    found, words = [], ["what", "about", "the", "<unk>"]
    for size in (12, 60):
        splits = data.build(dataclasses.replace(DATA, vocabulary=size), CPU)
        score = scorer(splits, "val")
        said = [[[splits.vocabulary.index[word] for word in words]]] * len(score.references)
        unknown = score([[[UNK] * 3]] * len(said))
        assert unknown["sacrebleu_recall"] == unknown["corpus_bleu"] == unknown["a_bow_f1"] == 0
        assert unknown["bleu1_f1"] > 0  # the authors' BLEU takes <unk> for a word
        found.append(score(said))
    names = [name for name in found[0] if name.startswith(("sacrebleu", "corpus_bleu"))]
    assert len(names) == 8 and found[0]["sacrebleu_f1"] > 0.05
    for name in names:
        assert found[0][name] == found[1][name]
    assert found[0]["bleu4_f1"] != found[1]["bleu4_f1"]


def test_references_are_kept_in_their_own_words_and_with_their_own_acts(splits):
    score = scorer(splits)
    lines = [json.loads(line) for line in (HERE / "test.jsonl").read_text().splitlines()]
    acts = [said[2][0].strip(' "') for line in lines for said in line["utts"]]
    assert [[splits.acts[n] for n in found.acts] for found in score.references] == [[act] for act in acts]
    longest = max(score.references, key=lambda reference: len(reference.words[0]))
    assert longest.words[0] == ["very"] * 50 and longest.responses[0] == [UNK] * 38
    text = [[" ".join(words) for words in reference.words] for reference in score.references]
    assert text == [[" ".join(tokenise(said))] for dialog in utterances("test") for _, said in dialog]


def test_another_dialogs_references_are_a_permutation_of_all():
    rng = np.random.default_rng(0)
    for size in (2, 7, 300):
        for _ in range(20):
            dialogs = np.sort(rng.integers(0, rng.integers(2, 12), size))
            partners = another_dialog(dialogs)
            if 2 * np.bincount(dialogs).max() > size:
                assert partners is None
                continue
            assert sorted(partners) == list(range(size))
            assert (dialogs[partners] != dialogs).all()
            assert np.array_equal(another_dialog(dialogs), partners)
    assert another_dialog(np.array([0, 0, 1, 1])) is not None and another_dialog(np.array([0, 0, 1])) is None


def test_what_is_judged_is_what_an_answer_has_of_its_own_context(splits):
    score = scorer(splits, "val")
    train, corpus = splits.corpora["train"], splits.corpora["val"]
    constant = score(constant_answers(train, len(corpus), 3))
    judged = [name for name in constant if name.endswith("_minus_permuted")]
    bare = {name.removesuffix("_minus_permuted") for name in judged}
    assert bare >= {"bleu4_f1", "sacrebleu_f1", "corpus_bleu", "a_bow_f1", "e_bow_f1", "greedy_f1", "act_hit"}
    assert not bare & {"acts", "different", "distinct1", "distinct2", "answer_words"}
    assert all(tables.direction(f"val/{name}") == 1 for name in judged)
    assert all(tables.direction(f"val/{name}") == 0 for name in constant if name not in judged)
    for name in judged:
        assert constant[name] == pytest.approx(0, abs=1e-12)
    knowing = score([[said] * 3 for said in corpus.sentences(np.arange(len(corpus)))])
    for name in ("bleu1_f1", "sacrebleu_f1", "a_bow_f1", "greedy_f1"):
        assert knowing[f"{name}_minus_permuted"] > 0.1
        against = dataclasses.replace(score, references=[score.references[n] for n in score.partners])
        permuted = against([[said] * 3 for said in corpus.sentences(np.arange(len(corpus)))])
        assert knowing[f"{name}_minus_permuted"] == pytest.approx(knowing[name] - permuted[name])
    alone = dataclasses.replace(score, partners=None)(constant_answers(train, len(corpus), 3))
    assert alone == {name: value for name, value in constant.items() if name not in judged}


def test_a_hit_is_the_share_of_the_known_acts_of_references_that_an_answer_has():
    acts = np.array([[0, 1, 1], [2, 2, 2], [5, 6, 7]])
    right = [References([], own, []) for own in ([0, 3, UNKNOWN], [2, 8, 9, 9], [UNKNOWN])]
    assert act_hits(acts, right) == pytest.approx([1 / 2, 1 / 4])


def test_answers_without_a_context_come_from_the_train_split(splits):
    train = splits.corpora["train"]
    every = train.sentences(np.arange(len(train)))
    some = random_answers(train, 40, 5, seed=1)
    assert {len(one) for one in some} == {5} and len(some) == 40
    assert all(said in every for one in some for said in one)
    many = {tuple(said) for one in random_answers(train, 400, 5, seed=1) for said in one}
    assert many == set(map(tuple, every))
    assert some == random_answers(train, 40, 5, seed=1) != random_answers(train, 40, 5, seed=2)
    lines = [line for number, line in enumerate(utterances("train")) if number not in held_dialogs(splits)]
    counts = Counter(tuple(tokenise(text)) for line in lines for _, text in line)
    commonest = next(said for said in counts if counts[said] == max(counts.values()))
    (first, *others), *more = constant_answers(train, 2, 3)
    assert [splits.vocabulary.words[number] for number in first] == list(commonest)
    assert others == [first, first] and more == [[first, *others]]


def test_all_vectors_lie_beside_the_data_unless_a_whole_path_is_given(tmp_path, configured):
    for path in HERE.glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vectors.txt").write_text("yeah 1 2 3 4 5\n")
    for given in ("vectors.txt", tmp_path / "vectors.txt"):
        named = [f"{group}.vectors={given}" for group in ("model", "task")]
        task = prepare(configured(*SMALL, f"dataset.path={tmp_path}", *named))
        yeah = task.data.vocabulary.index["yeah"]
        assert task.model.embedding.weight[yeah].tolist() == [1, 2, 3, 4, 5]
        assert task.vectors[0][yeah].tolist() == [1, 2, 3, 4, 5]


def test_of_the_words_with_a_vector_unk_is_none_and_the_first_word_is_one(tmp_path, configured):
    for path in HERE.glob("*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = [*SMALL, f"dataset.path={tmp_path}"]
    first = prepare(configured(*given)).data.vocabulary.words[len(SPECIALS)]
    (tmp_path / "vectors.txt").write_text(f"<unk> 1 1 1 1 1\n{first} 1 2 3 4 5\n")
    _, known = prepare(configured(*given, "task.vectors=vectors.txt")).vectors
    assert np.flatnonzero(known).tolist() == [len(SPECIALS)]


@pytest.mark.parametrize("head", ["", "5 2\n", "5 2 \r\n", "\ufeff", "\ufeff5 2\n"])
def test_vectors_may_begin_with_their_number_and_size(tmp_path, head):
    path = tmp_path / "vectors.vec"
    # as the files there are: other bytes, and words with spaces in them
    lines = f"{head}dog 1 2.5\ncat -1e-1 0 \nunheard 3 4\n. . . 5 6\ncaf".encode()
    path.write_bytes(lines + b"\xe9 7 8\n")
    found, known = vectors.read(path, Vocabulary([*SPECIALS, "cat", "dog", "3"]))
    assert found[4:].tolist() == [[pytest.approx(-0.1), 0.0], [1.0, 2.5], [0.0, 0.0]]
    assert known.tolist() == [False] * 4 + [True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2 2\ndog 1 2\n", "has 1 words, and its first line says 2: is it whole?"),
        ("1 2\ndog 1 2\ncat 1 2\n", "has 2 words, and its first line says 1: is it whole?"),
        ("1 3\ndog 1 2\n", "line 2: a word and 3 numbers expected"),
        ("dog 1 2\n3 2\n", "line 2: a word and 2 numbers expected"),
        ("1 1\ndog 1\n", "line 2: a word and 2 numbers expected"),
        ("cat 1 2\ndog 1 2 3\n", "line 2: a word and 2 numbers expected"),
        ("cat 1 2\ndog 1 inf\n", "line 2: a word and 2 numbers expected"),
        ("dog nan 2\n", "line 1: a word and 2 numbers expected"),
        ("dog 1 x\n", "line 1: a word and 2 numbers expected"),
        ("1 2.0\ndog 1 2\n", "line 1: a word and 2 numbers expected"),
        ("one 2\ndog 1 2\n", "line 1: a word and 2 numbers expected"),
        ("3\n", "line 1: a word and 2 numbers expected"),
        ("3 1 2\n", "has none of the 5 words"),  # is a word here
        ("zz 1 2\n", "has none of the 5 words"),
    ],
)
def test_vectors_that_are_not_as_their_first_line_says_are_refused(tmp_path, text, said):
    path = tmp_path / "vectors.vec"
    path.write_text(text)
    separator = ", " if said.startswith("line") else " "
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}{separator}{said}')}$"):
        vectors.read(path, Vocabulary([*SPECIALS, "dog"]))


def test_words_in_the_same_company_get_similar_vectors_the_same_each_time():
    rng = np.random.default_rng(0)
    sentences = [[rng.integers(4, 6), 8, 9, 8] for _ in range(200)]
    sentences += [[rng.integers(6, 8), 10, 11, 10] for _ in range(200)]
    sentences = [list(map(int, sentence)) for sentence in sentences]
    found, known = vectors.cooccurrence(sentences, 13, 4)
    assert known.tolist() == [False] * 4 + [True] * 8 + [False]
    unit = found[known] / np.linalg.norm(found[known], axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert likeness[0, 1] > 0.9 and likeness[2, 3] > 0.9 and abs(likeness[:2, 2:4]).max() < 0.2
    assert np.array_equal(vectors.cooccurrence(sentences, 13, 4)[0], found)


@pytest.mark.parametrize(("contexts", "dimensions"), [(1000, 100), (4, 100), (1000, 3), (5, 2)])
def test_vectors_are_those_of_the_positive_pointwise_mutual_information(contexts, dimensions, monkeypatch):
    monkeypatch.setattr(vectors, "CONTEXT_WORDS", contexts)
    monkeypatch.setattr(vectors, "DIMENSIONS", dimensions)
    rng, words = np.random.default_rng(0), 11
    sentences = [rng.integers(4, words, rng.integers(1, 15)).tolist() for _ in range(30)]
    pairs = np.zeros((words, words))
    for sentence in sentences:
        for place, word in enumerate(sentence):
            for other in sentence[max(0, place - 5) : place] + sentence[place + 1 : place + 6]:
                pairs[word, other] += other < 4 + contexts
    share = pairs.sum(0) ** 0.75 / (pairs.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.nan_to_num(np.log(pairs / pairs.sum(1, keepdims=True) / share), neginf=0).clip(min=0)
    left, lengths, _ = np.linalg.svd(positive)
    found, known = vectors.cooccurrence(sentences, words, 4)
    assert known.tolist() == [False] * 4 + [True] * 7
    # U √Σ, whose columns may be turned round
    left, lengths = left[:, :dimensions], lengths[:dimensions]
    np.testing.assert_allclose(found @ found.T, left * lengths @ left.T, atol=1e-5)


def test_vectors_have_100_dimensions_from_cooccurrence_with_the_1000_commonest_words(monkeypatch):
    reduced = []
    axes = lambda square: reduced.append(square.shape) or (None, np.eye(len(square)))  # noqa: E731
    monkeypatch.setattr(vectors.np.linalg, "eigh", axes)
    sentences = [list(range(start, start + 10)) for start in range(4, 1204, 10)]
    found, _ = vectors.cooccurrence(sentences, 1204, 4)
    assert (found.shape, reduced) == ((1204, 100), [(1004, 1004)])


def test_acts_are_learnt_in_two_epochs_of_batches_of_a_thousand(splits, monkeypatch):
    classifier = ActClassifier(splits.corpora["train"], len(splits.vocabulary), len(splits.acts))
    sizes, scored, gradients = [], classifier._scores, []
    monkeypatch.setattr(classifier, "_scores", lambda some: sizes.append(len(some)) or scored(some))
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: gradients.append(classifier.bias.grad.clone()))
    for count in (1024, 1025):
        classifier._train([[5]] * count, np.zeros(count, dtype=np.int64))
    assert sizes == [1024] * 2 + [513, 512] * 2
    for gradient in gradients:  # each of its own batch alone
        torch.testing.assert_close(gradient, gradients[0])
    assert len(gradients) == 6 and gradients[0].any()


def test_the_act_classifier_learns_words_and_is_the_same_each_time(splits, monkeypatch):
    train, held = splits.corpora["train"], splits.corpora["held"]
    state = torch.get_rng_state()
    found = [ActClassifier(train, len(splits.vocabulary), len(splits.acts)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].weights, found[1].weights)
    measured = found[0].accuracy(held)
    assert measured["act_accuracy"] > measured["act_majority"]
    acts, own = train.acts[train.places], held.acts[held.places]
    commonest = np.bincount(acts[acts != UNKNOWN]).argmax()
    assert measured["act_majority"] == pytest.approx((own[own != UNKNOWN] == commonest).mean())
    words = splits.vocabulary.index
    question, yeah = [words["what"], words["about"], words["the"]], [words["yeah"]]
    acts = [splits.acts[act] for act in found[0]([question, yeah])]
    assert acts == ["wh-question", "acknowledge_(backchannel)"]
    assert len(found[0]([])) == 0
    some = copy.copy(train)
    some.acts = np.where(np.arange(len(train.acts)) % 5, train.acts, UNKNOWN)  # which teach nothing
    taught = ActClassifier(some, len(splits.vocabulary), len(splits.acts))
    assert taught([yeah]) == found[0]([yeah]) and not torch.equal(taught.weights, found[0].weights)
    some = held.sentences(np.arange(len(held)))
    whole = found[0](some).tolist()
    monkeypatch.setattr("cvae.evaluation.acts.UTTERANCES_AT_ONCE", 5)
    assert len(some) % 5 and found[0](some).tolist() == whole and len(set(whole)) > 1
    for pairs in ([[4, other] for other in range(4, 24)], [[other, 4] for other in range(4, 24)]):
        numbers = {found[0]._features(pair)[3] for pair in pairs}  # after `<s>` with the first
        assert len(numbers) == 20 and min(numbers) >= len(splits.vocabulary)
    assert found[0]._features([9, 4, 5, 6])[6] == found[0]._features([4, 5])[3]
    assert found[0]._features([4, 5])[3] != found[0]._features([5, 4])[3]  # a pair has an order
    val = splits.corpora["val"]
    acts = val.acts[val.places]  # one of them is unknown
    assert found[0].accuracy(val)["act_majority"] == (acts == 0).sum() / (len(acts) - 1)


# ---- references ----


def written(tmp_path: Path, entries: object) -> Path:
    path = tmp_path / "references.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def held_dialogs(splits: DialogSplits) -> list[int]:
    """The numbers of the train dialogs that are held out."""
    count = len(splits.corpora["train"].topics) + len(splits.corpora["held"].topics)
    return fixed_subset(len(splits.corpora["held"].topics), count).tolist()


def utterances(split: str) -> list[list[list[str]]]:
    """[speaker, text] of each utterance of each dialog."""
    lines = (HERE / f"{split}.jsonl").read_text().splitlines()
    return [[said[:2] for said in json.loads(line)["utts"]] for line in lines]


def test_references_are_matched_by_their_context_wherever_they_stand(tmp_path, splits, monkeypatch):
    corpus, dialogs = splits.corpora["test"], utterances("test")
    monkeypatch.setitem(corpus.labels.acts, "7", 70)
    entries = [
        {"responses": ["yeah", "What about THE dog", "no"], "resp_dialog_acts": ["agree/accept", ["?"], 7]}
        | {"context": [text for _, text in dialogs[1][:12]]},  # more than the window holds
        {"responses": ["uh-huh"], "resp_dialog_acts": None}
        | {"context": [[*said, "more"] for said in dialogs[0][:2]]},
        {"responses": ["nowhere"], "context": ["said by nobody"]},
    ]
    found, unused = references.read(written(tmp_path, entries), corpus)
    assert unused == 1
    assert sorted(found) == [2, len(dialogs[0]) + 12]
    words = splits.vocabulary.words
    late = found[len(dialogs[0]) + 12]
    assert [[words[n] for n in said] for said in late.responses] == [
        ["yeah"],
        ["what", "about", "the", "dog"],
        ["no" if "no" in words else "<unk>"],
    ]
    assert late.acts == [splits.acts.index("agree/accept"), UNKNOWN, 70] and found[2].acts == []


@pytest.mark.parametrize("lower", [True, False])
def test_references_are_in_lower_case_where_the_corpus_is(tmp_path, lower):
    corpus = data.build(dataclasses.replace(DATA, lower=lower), CPU).corpora["test"]
    entries = [{"responses": ["What about THE dog"]}] * len(corpus)
    found, _ = references.read(written(tmp_path, entries), corpus)
    assert found[0].words == [["what", "about", "the", "dog"] if lower else ["What", "about", "THE", "dog"]]
    texts = [text for _, text in utterances("test")[0][:3]]
    contexts = texts[:2], [text.upper() for text in texts]
    entries = [{"responses": ["yeah"], "context": context} for context in contexts]
    assert list(references.read(written(tmp_path, entries), corpus)[0]) == ([2, 3] if lower else [2])


def test_the_same_context_twice_takes_its_references_in_turn(tmp_path, splits):
    entries = [{"responses": [word], "context": []} for word in ("yeah", "oh", "no")]
    found, unused = references.read(written(tmp_path, entries), splits.corpora["test"])
    assert unused == 1  # there are two dialogs
    first = utterances("test")[0]
    words = splits.vocabulary.words
    said = {number: words[some.responses[0][0]] for number, some in found.items()}
    assert said == {0: "yeah", len(first): "oh"}
    found, unused = references.read(
        written(tmp_path, entries[:2]), splits.corpora["val"]
    )  # whose dialogs are three
    assert unused == 0
    assert [words[some.responses[0][0]] for some in found.values()] == ["yeah", "oh", "oh"]


def test_references_may_begin_with_a_byte_order_mark(tmp_path, splits):
    entries = [{"responses": ["\ufeffyes"]}] * len(splits.corpora["test"])
    path = written(tmp_path, "\ufeff" + json.dumps(entries, ensure_ascii=False))
    yes = splits.vocabulary.index.get("yes", UNK)
    found, _ = references.read(path, splits.corpora["test"])
    assert found[0].responses == [[yes]]


def test_references_without_contexts_are_matched_by_place_if_they_are_as_many(tmp_path, splits):
    corpus = splits.corpora["test"]
    entries = [{"responses": ["yeah"] * (number + 1)} for number in range(len(corpus))]
    found, unused = references.read(written(tmp_path, entries), corpus)
    assert unused == 0
    assert [len(found[number].responses) for number in range(len(corpus))] == list(range(1, len(corpus) + 1))
    path = written(tmp_path, entries[1:])
    with pytest.raises(UserError, match=f"^{path} has 20 entries without a context for 21 responses: "):
        references.read(path, corpus)


def test_contexts_may_be_written_as_the_authors_do(tmp_path, splits):
    first, second = utterances("test")
    entries = [
        {"responses": ["yeah"], "context": ["A: <s> <d> </s>"]},
        {"responses": ["oh"], "context": [f"{speaker}: {text} " for speaker, text in second[:3]]},
        {
            "responses": ["no"],
            "context": ["A: <s> <d> </s>", *(f"{one}: {text}\n" for one, text in first[:2])],
        },
    ]
    found, unused = references.read(written(tmp_path, entries), splits.corpora["test"])
    words = splits.vocabulary.words
    assert {number: words[some.responses[0][0]] for number, some in found.items()} == {
        **{0: "yeah", len(first): "yeah"},
        **{2: "<unk>", len(first) + 3: "oh"},
    }
    assert unused == 0


def test_references_of_another_corpus_are_refused(tmp_path, splits):
    own = [{"responses": ["yeah"], "context": utterances("test")[0][: n + 1]} for n in range(5)]
    others = [{"responses": ["no"], "context": [f"said by nobody {n}"]} for n in range(6)]
    assert references.read(written(tmp_path, own + others[:5]), splits.corpora["test"])[1] == 5
    for count, which in ((1, "7 contexts one is one"), (2, "8 contexts 2 are those")):
        sentence = f"of its {which} of this split, which has 21: at least half must be"
        with pytest.raises(UserError, match=sentence):
            references.read(written(tmp_path, own[:count] + others), splits.corpora["test"])


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("{", r"is not JSON: .* line 1 column 2 \(char 1\)$"),
        ([], "must be a list of references"),
        ({"a": 1}, "must be a list of references"),
        ([{"responses": []}], "entry 1: responses must be a list of texts"),
        ([{"responses": ["a"]}, {"responses": ["a", 3]}], "entry 2: responses must be a list of texts"),
        ([{"responses": ["a"], "resp_dialog_acts": []}, 3], "entry 2: responses must"),
        ([{"responses": ["a"], "resp_dialog_acts": ["x", "y"]}], "entry 1: resp_dialog_acts must be one for"),
        ([{"responses": ["a"], "resp_dialog_acts": "x"}], "entry 1: resp_dialog_acts must be one for"),
        ([{"responses": ["a"], "context": []}, {"responses": ["a"]}], "entry 2: no context, though others"),
        ([{"responses": ["a"], "context": "hi"}], "entry 1: context must be a list of utterances"),
        ([{"responses": ["a"], "context": None}], "entry 1: context must be a list of utterances"),
        ([{"responses": ["a"], "context": [["A"]]}], "entry 1: context must be a list of utterances"),
        ([{"responses": ["a"], "context": ["never said"]}], "of its 1 contexts none is one of this split"),
    ],
)
def test_references_that_cannot_be_used_are_refused(tmp_path, splits, entries, sentence):
    path = written(tmp_path, entries)
    with pytest.raises(UserError, match=sentence) as refusal:
        references.read(path, splits.corpora["test"])
    assert str(path) in str(refusal.value)


def test_references_that_cannot_be_opened_are_refused(tmp_path, splits):
    with pytest.raises(UserError, match=rf"^task\.references: {tmp_path} cannot be read: Is a directory$"):
        references.read(tmp_path, splits.corpora["test"])


# ---- a run ----


def script():
    """scripts/sample.py as a module."""
    name = "sample_of_dialogs"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts/sample.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, configured) -> list[Path]:
    """Two finished runs."""
    found = []
    for schedule in ("monotonic", "cyclical"):
        path = tmp_path_factory.mktemp("dialog") / schedule
        run(configured(*SMALL, f"schedule={schedule}"), RunFolder(path))
        found.append(path)
    return found


def test_a_finished_run_has_every_score_and_the_same_checkpoint_the_same(folders):
    folder = RunFolder(folders[0])
    results = folder.results
    for split in ("val", "test", "held"):
        names = {key.partition("/")[2] for key in results if key.startswith(f"{split}/")}
        assert names >= {"elbo", "rec", "kl", "ppl", "rec_ppl", "bow", "iw_nll", "mi", "au", "path_a"}
        assert names >= {f"bleu{n}_{what}" for n in range(1, 5) for what in ("precision", "recall", "f1")}
        assert names >= {
            "a_bow_f1",
            "e_bow_f1",
            "sacrebleu_f1",
            "corpus_bleu",
            "distinct1",
            "distinct2_context",
        }
        assert names >= {"acts", "act_hit", "act_accuracy", "different", "answer_words", "greedy_f1"}
        assert results[f"{split}/contexts"] == 9 and 1 <= results[f"{split}/acts"] <= 3
        for whose in ("random", "constant"):
            assert names >= {f"{whose}/{name}" for name in ("bleu4_f1", "act_hit", "acts", "distinct2")}
        # a dialog has more than half of the 9 contexts of test and held
        for whose in ("", "random/", "constant/"):
            assert (f"{whose}act_hit_minus_permuted" in names) == (split == "val")
        assert results[f"{split}/constant/acts"] == results[f"{split}/constant/different"] == 1
    assert results["val/constant/act_hit_minus_permuted"] == 0
    shown = tables.default_columns([read_run(folder.path)], every=False)
    assert {"test/distinct2", "test/distinct2_context"} <= set(shown)  # over all answers, and to one context
    task = reopen(folder.configuration("cpu"), folder)
    again = {f"held/{name}": value for name, value in task.evaluate("held", thorough=True).items()}
    assert again == {key: value for key, value in results.items() if key.startswith("held/")}
    assert results["data/val/unknown_topics"] == 1
    for split, corpus in task.data.corpora.items():
        assert results[f"data/{split}/unknown_share"] == corpus.unknown_share
        assert results.get(f"data/{split}/in_train_share") == task.data.in_train.get(split)
    tokens = results["data/val/tokens"] / results["data/val/sentences"]
    assert results["val/rec_ppl"] == pytest.approx(np.exp(results["val/rec"] / tokens))


def test_answerers_that_know_no_context_are_the_same_for_every_run(folders, capsys):
    table = runpy.run_path(str(ROOT / "scripts/table.py"))["main"]
    columns = ["val/act_hit_minus_permuted", "val/acts", "test/act_hit"]
    assert table([*map(str, folders), "--columns", *columns]) == 0
    body = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in body] == [
        ["| monotonic", "model"],
        ["| cyclical", "model"],
        ["| –", "random"],
        ["| –", "constant"],
    ]
    assert [part.strip("*") for part in body[-1][3:5]] == ["0.00", "1.00"]


def test_measures_by_older_definitions_are_not_those_of_today(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text())
    now = read_run(tmp_path / "run").results
    assert now == results and "val/distinct2" in now
    path.write_text(json.dumps({key: value for key, value in results.items() if key != "val/greedy_f1"}))
    older = read_run(tmp_path / "run").results
    gone = {key for key in now.keys() - older.keys() if "permuted" not in key} - {"val/greedy_f1"}
    names = ("precision", "recall", "f1")
    assert gone == {
        *(f"val/sacrebleu_{name}" for name in names),
        *("val/corpus_bleu", "val/distinct2", "val/distinct2_context"),
    }


def test_references_replace_the_response_on_test_only(folders, tmp_path, caplog):
    folder = RunFolder(folders[0])
    entries = [{"responses": ["yeah", "oh yeah"], "context": utterances("test")[0][:4]}]
    config = folder.configuration("cpu", references=str(written(tmp_path, entries)))
    task = reopen(config, folder)
    task.model.eval()
    with torch.no_grad():
        test, val = task.scores("test"), task.scores("val")
    assert (test["contexts"], test["references"]) == (1, 2) and "act_hit" not in test
    assert (
        "1 of 21 test responses, and only these are scored; 0 of its entries match no response" in caplog.text
    )
    counts = {name: count for name, count in task.counts().items() if "references" in name}
    assert counts == {
        **{"test/references": 1, "test/references_unused": 0, "test/references_unknown_acts": 0},
    }
    assert (val["contexts"], val["references"]) == (9, 1)


def test_what_of_the_references_is_not_used_or_not_known_is_counted(folders, tmp_path, splits):
    acts = [*splits.acts[:2], "?", "??"]
    entries = [
        {"responses": ["yeah"] * 4, "resp_dialog_acts": acts, "context": utterances("test")[0][:4]},
        {"responses": ["no"], "context": ["said by nobody"]},
    ]
    folder = RunFolder(folders[0])
    task = reopen(folder.configuration("cpu", references=str(written(tmp_path, entries))), folder)
    counts = {name: count for name, count in task.counts().items() if "references" in name}
    assert counts == {
        **{"test/references": 1, "test/references_unused": 1, "test/references_unknown_acts": 2},
    }


def test_every_split_is_counted_under_its_own_name(folders):
    counts = reopen(RunFolder(folders[0]).configuration("cpu"), RunFolder(folders[0])).counts()
    for split, dialogs in (("train", 8), ("held", 2), ("val", 3), ("test", 2)):  # a fifth is held out
        assert counts[f"{split}/dialogs"] == dialogs < counts[f"{split}/sentences"]
    assert (counts["test/sentences"], counts["val/sentences"]) == tuple(
        sum(map(len, utterances(name))) for name in ("test", "valid")
    )


@pytest.mark.parametrize(("matched", "unused", "warned"), [(2, 0, False), (2, 1, True), (1, 0, True)])
def test_references_for_every_response_that_are_all_used_are_no_warning(matched, unused, warned, caplog):
    dialog.warn_of_unused(dict.fromkeys(range(matched)), unused, 2)
    said = f"for {matched} of 2 test responses, and only these are scored; {unused} of its entries match no"
    assert (said in caplog.text) == bool(caplog.records) == warned


def test_the_authors_unit_is_measured_of_switchboard_on_the_split_that_is_tested(folders, monkeypatch):
    folder = RunFolder(folders[0])
    task = reopen(folder.configuration("cpu"), folder)
    monkeypatch.setattr(dialog, "AUTHORS_BATCH", 2)
    monkeypatch.setattr(Task, "test_metrics", lambda *_: {})
    monkeypatch.setattr(task, "scores", lambda split: {})
    corpus, terms = task.data.corpora["val"], Terms(torch.ones(2), torch.ones(2, 3), torch.ones(2))
    for schedule, measures in ((Constant(), {"authors/kl", "authors/elbo"}), (Autoencoder(), set())):
        monkeypatch.setattr(task, "config", dataclasses.replace(task.config, schedule=schedule))
        with task.eval_mode():
            found = task.test_metrics("val", terms)
            unit = dialog.authors_unit(task.model, corpus, not measures, task.generator())
        assert measures == {"authors/kl", "authors/elbo"} & unit.keys()
        assert unit["authors/rec"] > 0 and found == unit | {"rec_ppl": pytest.approx(np.e)}
    monkeypatch.setattr(task, "config", types.SimpleNamespace(dataset=None, autoencoder=False))  # another's
    assert task.test_metrics("val", terms).keys() == {"rec_ppl"}


def test_answers_are_scored_by_the_references_of_their_own_context(folders, monkeypatch):
    folder = RunFolder(folders[0])
    task = reopen(folder.configuration("cpu", contexts=11), folder)
    task.model.eval()
    index = task.data.vocabulary.index
    said = lambda batch, noise: [[[index[word] for word in text.split()]] * 3 for text in task.words(batch)]  # noqa: E731
    monkeypatch.setattr(task, "answer", said)
    lengths = [len(said) for said in utterances("valid")]
    dialogs = np.repeat(np.arange(len(lengths)), lengths)

    def partners(found: np.ndarray) -> np.ndarray:
        assert found.tolist() == dialogs[np.sort(fixed_subset(11, len(dialogs)))].tolist()
        return another_dialog(found)

    def scored(scorer: Scorer, answers: list, source: DialogCorpus, seed: int) -> dict[str, float]:
        assert source is task.data.corpora["train"] and seed == 5  # of answers that know no context
        return scores(scorer, answers, source, seed)

    monkeypatch.setattr(dialog, "another_dialog", partners)
    monkeypatch.setattr(dialog, "scores", scored)
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, seed=5))
    found = task.scores("val")
    assert (found["contexts"], found["different"]) == (11, 1.0)
    assert [found[f"{name}_f1"] for name in ("a_bow", "e_bow", "greedy")] == pytest.approx([1, 1, 1])


def test_answers_come_from_the_prior_and_the_context_they_answer(folders, monkeypatch):
    folder = RunFolder(folders[0])
    task = reopen(folder.configuration("cpu"), folder)
    task.model.eval()
    batch = task.model.shared(task.data.corpora["val"].batch(np.array([0, 3, 7])))
    mean = torch.arange(9.0).view(3, 3)
    monkeypatch.setattr(task.model, "prior", lambda some: Gaussian(mean, torch.full((3, 3), -60.0)))

    def numbered(model, some, z, *how):
        torch.testing.assert_close(z, mean[[0, 0, 0, 1, 1, 1, 2, 2, 2]])
        assert torch.equal(some.condition, batch.condition[[0, 0, 0, 1, 1, 1, 2, 2, 2]])
        return [[row] for row in range(len(z))]

    monkeypatch.setattr("cvae.models.decode.generate", numbered)
    assert len(batch.condition.unique(dim=0)) == 3
    assert task.answer(batch, task.generator()) == [[[3 * row + n] for n in range(3)] for row in range(3)]


def test_samples_and_draws_are_as_asked(folders):
    folder = RunFolder(folders[0])
    said = {}
    for temperature, top_p, forbid in ((0.0, 1.0, False), (1.5, 1.0, True), (1.5, 0.5, True)):
        keys = {"temperature": temperature, "top_p": top_p, "forbid_unknown": forbid, "samples": 4}
        task = reopen(folder.configuration("cpu", **keys), folder)
        task.model.eval()
        some = [task.answers("val", np.arange(5), seed) for seed in (1, 1, 2)]
        assert some[0] == some[1] != some[2] != task.answers("val", np.arange(5), 0)
        assert [len(one) for one in some[0]] == [4] * 5
        assert max(len(words) for one in some[0] for words in one) <= 38
        words = {number for one in some[0] for words in one for number in words}
        assert not (forbid and 1 in words)
        said[temperature, top_p] = str(some[0])
    assert len(set(said.values())) == 3


@pytest.mark.parametrize("forbid", [True, False])
def test_an_unknown_word_is_said_unless_it_is_forbidden(forbid, folders):
    folder = RunFolder(folders[0])
    task = reopen(folder.configuration("cpu", forbid_unknown=forbid), folder)
    with torch.no_grad():
        task.model.output.bias[UNK] += 100
    said = {
        number for answers in task.answers("val", np.arange(2), 0) for words in answers for number in words
    }
    assert (said == {UNK}) != forbid and (UNK in said) != forbid


def test_the_page_of_a_run_shows_context_reference_and_answers(folders):
    page = (folders[0] / "samples.md").read_text()
    assert page.count("## ") == 4 == page.count("reference: **")
    assert page.count("\n3. ") == 4 and "wh-question" in page
    found = reopen(RunFolder(folders[0]).configuration("cpu"), RunFolder(folders[0])).data
    test, words = found.corpora["test"], found.vocabulary.words
    said = {literal(" ".join(words[n] for n in one)) for one in test.sentences(np.arange(len(test)))}
    assert set(re.findall(r"reference: \*\*(.*?)\*\*", page)) <= said


def test_a_preview_shows_the_utterance_that_is_answered_its_reference_and_the_answers(folders, monkeypatch):
    task = reopen(RunFolder(folders[0]).configuration("cpu"), RunFolder(folders[0]))
    corpus, words = task.data.corpora["val"], task.data.vocabulary.words

    def shown(place: int) -> str:
        return literal(" ".join(words[number] for number in corpus.utterance(place)))

    rows = np.sort(fixed_subset(4, len(corpus)))
    places = corpus.places[rows]
    assert max(places - corpus.starts[np.searchsorted(corpus.places, places)]) > 2  # contexts of several
    before = [shown(place - 1) if corpus.speakers[place - 1] >= 0 else "" for place in places]
    given = [[[10 + number], [20 + number, 30 + number]] for number in range(4)]
    asked, expected = [], []
    monkeypatch.setattr(task, "answers", lambda split, some: asked.append((split, some.tolist())) or given)
    for last, place, answers in zip(before, places, given, strict=True):
        answered = [f"- {literal(' '.join(words[number] for number in answer))}" for answer in answers]
        expected += ["", f"{last} → **{shown(place)}**", "", *answered]
    assert task.preview().splitlines() == expected and asked == [("val", rows.tolist())]


def test_a_conversation_is_what_the_file_says_and_the_model_answers(folders):
    task = reopen(RunFolder(folders[0]).configuration("cpu"), RunFolder(folders[0]))
    task.model.eval()
    words, index = task.data.vocabulary.words, task.data.vocabulary.index
    lines = [json.loads(line) for line in (HERE / "valid.jsonl").read_text().splitlines()]
    count = sum(len(line["utts"]) for line in lines)
    found = chat.conversations(task, "val", count, seed=1)

    def read(text: str) -> str:
        return " ".join(word if word in index else "<unk>" for word in tokenise(text)[:38])

    left = iter(found)
    for line in lines:
        topic = line["topic"].strip(' "')
        for number, (speaker, text, acts) in enumerate(line["utts"]):
            one = next(left)
            before = line["utts"][max(0, number - 9) : number]
            assert one.context == [(who, read(said)) for who, said, _ in before]
            assert (one.speaker, one.reference.text) == (speaker, read(text))
            assert one.reference.act == (acts[0] if acts[0] in task.data.acts else "unknown")
            assert one.topic == (topic if topic in task.data.topics else "unknown")
    assert {"unknown"} < {one.topic for one in found} and "unknown" in {one.reference.act for one in found}
    drawn = task.answers("val", np.arange(count), 1)
    assert drawn != task.answers("val", np.arange(count), 0)
    answers = [[said.text for said in one.answers] for one in found]
    assert answers == [[" ".join(words[number] for number in said) for said in some] for some in drawn]
    some = chat.conversations(task, "val", 4, seed=1)
    wanted = [found[row] for row in sorted(fixed_subset(4, count))]
    assert [(one.context, one.reference) for one in some] == [(one.context, one.reference) for one in wanted]


PAGE = """## 1. `pets`

- ?: `hi`
- `b_c`: `yes`

?2, reference: **`no`** (`reject`)

?2, one:

1. `a` (`x`)
2. `b`

?2, other:

1. `c` (`y`)

## 2.

- (the dialog begins)

A, reference: **`so`**

A, one:

1. `d`

A, other:

1. `e`
"""


def test_a_page_of_conversations_word_for_word():
    said = chat.Said
    first = chat.Conversation("PETS", [("?", "hi"), ("b_c", "yes")], "?2", said("no", "reject"), [])
    second = chat.Conversation(None, [], "A", said("so", None), [])
    answers = {
        "one": ([said("a", "x"), said("b", None)], [said("d", None)]),
        "other": ([said("c", "y")], [said("e", None)]),
    }
    runs = {
        name: [one._replace(answers=own) for one, own in zip((first, second), both, strict=True)]
        for name, both in answers.items()
    }
    assert chat.page(runs, literal) == PAGE


def test_runs_stand_side_by_side(folders, capsys):
    command = [str(folders[0]), "--beside", str(folders[1]), "--count", "3", "--split", "test"]
    assert script().main(command) == 0
    page = capsys.readouterr().out
    assert page.count("## ") == 3 == page.count(f"{folders[0]}:") == page.count(f"{folders[1]}:")
    assert script().main([*command, "--json", "--answers", "2", "--temperature", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found.values()
    assert [one["reference"] for one in first] == [one["reference"] for one in second]
    assert {len(one["answers"]) for one in first + second} == {2}
    assert script().main([*command, "--json", "--answers", "2", "--temperature", "1", "--seed", "7"]) == 0
    assert json.loads(capsys.readouterr().out) != found


def test_what_answers_is_set_as_the_command_says_and_else_as_the_run(folders):
    folder = RunFolder(folders[0])
    own = reopen(folder.configuration("cpu"), folder)
    usual = own.config.task.samples, own.longest
    words = ["--temperature", "0.5", "--top-p", "0.25", "--no-unk"]
    asked = [*words, "--answers", str(usual[0] + 1), "--longest", "2"]
    for given, chosen, sizes in (
        ([], (0.0, 1.0, False), usual),
        (asked, (0.5, 0.25, True), (usual[0] + 1, 2)),
    ):
        task = sample.dialog_task(folder, sample.parse([str(folder.path), *given]))
        how = task.config.task
        assert (how.temperature, how.top_p, how.forbid_unknown) == chosen
        assert (how.samples, task.longest) == sizes and not task.model.training


@pytest.mark.parametrize(
    ("own", "prints", "same"),
    [
        ({"path": "elsewhere", "consecutive": 9, "whole_passages": False}, {"test": "a"}, True),
        ({"window": 9}, {"test": "a"}, False),
        ({}, {"test": "b"}, False),
    ],
)
def test_runs_side_by_side_have_the_same_contexts(own, prints, same, monkeypatch):
    runs = {"one": (DATA, {"test": "a"}), "other": (dataclasses.replace(DATA, **own), prints)}

    def task(folder: RunFolder, options: object) -> types.SimpleNamespace:
        dataset, fingerprints = runs[folder.path.name]
        return types.SimpleNamespace(
            config=types.SimpleNamespace(dataset=dataset),
            data=types.SimpleNamespace(fingerprints=fingerprints),
        )

    monkeypatch.setattr(sample, "dialog_task", task)
    monkeypatch.setattr(chat, "conversations", lambda *_: [])
    options = sample.parse(["one", "--beside", "other", "--json"])
    if same:
        assert json.loads(sample.answers(options)) == {"one": [], "other": []}
        return
    with pytest.raises(UserError, match="other and one differ in their data: their contexts are not"):
        sample.answers(options)


@pytest.mark.parametrize("said", [["hi"], ["hi", "yeah"], ["hi", "yeah", "oh"]])
def test_in_a_chat_b_answers_what_a_has_said_last(said, folders, monkeypatch):
    folder, read = RunFolder(folders[0]), []
    task = reopen(folder.configuration("cpu"), folder)
    monkeypatch.setattr(task, "answer", lambda batch, noise: (read.append((batch, noise)), [[[4]]])[1])
    chat.answers(task, said, task.data.topics[1], seed=len(said))
    ((batch, noise),) = read
    assert noise.initial_seed() == len(said) and batch.topics.tolist() == [1]
    average = task.data.corpora["train"].average_person
    assert average.any() and batch.people.tolist() == [average.tolist() * 2]
    assert batch.contexts.batch_sizes.tolist() == [1] * (1 + len(said))  # `<d>` first
    own = [float((len(said) - place) % 2 == 0) for place in range(len(said))]  # of B's are every other one
    assert batch.floors.tolist() == [0.0, *own]


@pytest.mark.parametrize("lower", [True, False])
def test_what_is_typed_is_in_lower_case_where_the_corpus_is(lower, folders, monkeypatch):
    task, read = reopen(RunFolder(folders[0]).configuration("cpu"), RunFolder(folders[0])), []
    train = task.data.corpora["train"]
    monkeypatch.setattr(train, "config", dataclasses.replace(train.config, lower=lower))
    monkeypatch.setattr(task, "answer", lambda batch, noise: (read.append(batch), [[[4]]])[1])
    chat.answers(task, ["YEAH"], "", seed=0)
    assert (task.data.vocabulary.index["yeah"] in read[0].texts.data) == lower
    assert (UNK in read[0].texts.data) != lower


def test_a_chat_goes_on_with_what_was_chosen(folders, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What about the dog?\n2\nyeah\n\nWhat about the dog?\n"))
    assert script().main([str(folders[0]), "--chat", "--topic", "music", "--temperature", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("1. ") and said[4] == "B has said: " + said[2][3:].rpartition(" (")[0]
    assert said[5].startswith("1. ") and said[8] == "A new dialog."
    assert said[9:12] == said[1:4]


def test_a_topic_is_one_of_the_corpus_in_capitals_or_not(folders, capsys, monkeypatch):
    said, answer = {}, DialogTask.answer
    for topic in ("music", "MUSIC", "Music", "Pets", ""):
        heard = []
        monkeypatch.setattr(sys, "stdin", io.StringIO("what about the dog\n"))
        monkeypatch.setattr(
            DialogTask, "answer", lambda *a, heard=heard: (heard.append(int(a[1].topics)), answer(*a))[1]
        )
        assert script().main([str(folders[0]), "--chat", "--topic", topic]) == 0
        said[topic] = heard
    assert said["music"] == said["MUSIC"] == said["Music"] != said["Pets"] and said[""] == [UNKNOWN]
    assert script().main([str(folders[0]), "--chat", "--topic", "space flight"]) == 1
    assert capsys.readouterr().err == (
        "--topic space flight is none of the train split's topics: air pollution, music, pets\n"
    )


def test_every_turn_of_a_chat_has_noise_of_its_own_and_a_new_dialog_the_same(monkeypatch):
    seeds = []
    monkeypatch.setattr(chat, "answers", lambda *a: seeds.append(a[3]) or [chat.Said("yes", "")] * 2)
    task = types.SimpleNamespace(data=types.SimpleNamespace(topics=[]))
    list(chat.chat(task, ["hello", "2", "and you", "well", "", "hello", "and you"], "", seed=5))
    assert len(set(seeds[:3])) == 3 and seeds[3:] == seeds[:2] and seeds[0] == 5


def test_a_number_chooses_only_where_there_are_answers(monkeypatch):
    heard = []
    both = [chat.Said("yes", None), chat.Said("no", None)]
    monkeypatch.setattr(chat, "answers", lambda *a: heard.append(a[1]) or both)
    task = types.SimpleNamespace(data=types.SimpleNamespace(topics=[]))
    _, *lines = chat.chat(task, ["7", "2", "so", "2", "5", "oh", "", "3"], "", seed=0)
    # of each turn before, what was typed and the answer that was chosen last
    assert heard == [["7"], ["7", "no", "so"], ["7", "no", "so", "yes", "oh"], ["3"]]
    both_said, no, yes = "1. yes\n2. no", "B has said: no", "B has said: yes"
    # beyond the last they are counted from the first again
    assert lines == [both_said, no, both_said, no, yes, both_said, "A new dialog.", both_said]


def test_a_topic_is_spelt_as_in_the_corpus(monkeypatch):
    heard = []
    monkeypatch.setattr(chat, "answers", lambda *a: heard.append(a[2]) or [chat.Said("yes", "")])
    task = types.SimpleNamespace(data=types.SimpleNamespace(topics=["Music", "PETS"]))
    for topic in ("music", "Pets"):
        list(chat.chat(task, ["hello"], topic, seed=0))
    assert heard == ["Music", "PETS"]


def test_answers_are_as_long_as_asked(folders, capsys):
    command = [str(folders[0]), "--json", "--count", "9", "--temperature", "3", "--no-unk"]
    for longest in (3, 50):
        assert script().main([*command, "--longest", str(longest)]) == 0
        found = json.loads(capsys.readouterr().out)
        lengths = [len(said["text"].split()) for one in found[str(folders[0])] for said in one["answers"]]
        assert (3 if longest == 3 else 39) <= max(lengths) <= longest


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topic", "music"], "--topic: not read by all"),
        (["--chat", "--split", "test", "--count", "3"], "--split and --count: not read by --chat"),
        (["--from", "1"], "--from: not read by all"),
        (["--chat", "--to", "1"], "--to: not read by --chat"),
    ],
)
def test_what_would_not_be_read_is_refused(folders, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        script().main([str(folders[0]), *arguments])
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["²", "9" * 10, "9" * 5000, "٣ ²", "①"])
def test_what_is_no_number_of_an_answer_is_something_said(text, folders, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"yeah\n{text}\n٢\n"))
    assert script().main([str(folders[0]), "--chat"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in said[1:7]] == ["1. ", "2. ", "3. "] * 2
    assert said[7] == "B has said: " + said[5][3:].rpartition(" (")[0]


def test_a_chat_ends_in_a_sentence_where_it_is_no_text_and_quietly_at_ctrl_c(folders, capsys, monkeypatch):
    class Interrupted(io.StringIO):
        def __next__(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ye\xffah\n"), encoding="utf-8"))
    assert script().main([str(folders[0]), "--chat"]) == 1
    assert capsys.readouterr().err == "what is typed must be UTF-8, found the byte 0xff\n"
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert script().main([str(folders[0]), "--chat"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("\n\n")  # after ^C the terminal's prompt needs a line of its own


def test_what_does_not_answer_is_refused(folders, tmp_path, configured, capsys):
    config = configured("task=toy", "train.steps=4")
    other = RunFolder(tmp_path / "toy")
    other.path.mkdir()
    describe(other, config, "", {})
    assert script().main([str(other.path), "--chat"]) == 1
    assert script().main([str(folders[0]), "prior"]) == 1
    assert script().main([str(folders[0]), "--beside", str(other.path)]) == 1
    assert script().main([str(other.path), "--answers", "3"]) == 1
    assert script().main([str(folders[0]), "--beam", "2"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{other.path} is a run of task=toy, which does not answer",
        f"{folders[0]} answers in a dialog: leave out prior",
        f"{other.path} is a run of task=toy, which does not answer",
        f"{other.path} is a run of task=toy, which does not answer: --answers",
        f"{folders[0]} draws several answers to a context: leave out --beam",
    ]
    with pytest.raises(SystemExit):
        script().main([str(folders[0]), "--chat", "--json"])


def test_an_autoencoder_has_no_prior_to_answer_from(folders, tmp_path, configured):
    steps = ("train.epochs=null", "train.steps=2", "train.validate_every=2")
    run(configured(*SMALL, "schedule=none", *steps), RunFolder(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert "test/rec" in results and "test/kl" not in results and "test/bleu1_f1" not in results
    assert (tmp_path / "samples.md").read_text() == "schedule=none has no prior to answer from.\n"
    assert script().main([str(tmp_path), "--chat"]) == 1


def test_vectors_may_be_a_file_beside_the_data(folders, tmp_path):
    folder = RunFolder(folders[0])
    path = tmp_path / "glove.txt"
    path.write_text("yeah 1 0\nthe 0 1\n<unk> 1 1\n")  # an unknown word is like no other
    task = reopen(folder.configuration("cpu", vectors=str(path)), folder)
    table, known = task.vectors
    assert task.counts()["vectors"] == known.sum() == 2 and table[
        task.data.vocabulary.index["yeah"]
    ].tolist() == [1, 0]
    config = folder.configuration("cpu", vectors="nowhere.txt")
    with pytest.raises(UserError, match=r"no word vectors at .*dialogs/nowhere\.txt"):
        reopen(config, folder)  # and not only when training is over


def test_words_that_begin_with_a_vector_are_counted(tmp_path, configured):
    path = tmp_path / "glove.txt"
    path.write_text("yeah 1 0 0 0 0\nthe 0 1 0 0 0\nnever-heard 1 1 1 1 1\n")
    assert prepare(configured(*SMALL, f"model.vectors={path}")).counts()["model_vectors"] == 2
    assert "model_vectors" not in prepare(configured(*SMALL)).counts()
